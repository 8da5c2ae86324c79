"""Hand-written derivatives are first derivatives; a second one is refused, not left out."""

import pytest
import torch

from spadecli.model import losses
from spadecli.model.layers import SpectralConv2d
from spadecli.model.semantic import SemanticMap
from spadecli.model.spade import SPADE


def modulation():
    channels = torch.arange(4).repeat_interleave(64).view(1, 16, 16)
    x = torch.randn(1, 3, 16, 16, requires_grad=True)
    return SPADE(3, 4, 5, 3, "batch")(x, SemanticMap(channels, None, 4, "fast")), x


def spectral():
    layer = SpectralConv2d(3, 4, 3)
    return layer(torch.randn(1, 3, 8, 8)), layer.weight


def l1():
    x = torch.randn(2, 3, requires_grad=True)
    return losses.l1(x, torch.zeros(2, 3)), x


@pytest.mark.parametrize("make", [modulation, spectral, l1])
def test_a_second_derivative_is_refused(make):
    out, x = make()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(out.sum(), x, create_graph=True)


@pytest.mark.parametrize("make", [modulation, spectral, l1])
def test_a_first_derivative_is_given(make):
    out, x = make()
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    assert gradient.norm() > 0
