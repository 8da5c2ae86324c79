"""Training losses (section 3.3, appendix A): hinge, feature matching, KL, and our colour loss.

The perceptual loss has its own file.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..compute.autograd import first_order_only

COLOR_GRID = 16
Maps = list[list[Tensor]]  # per scale: four inner feature maps, then the patch scores


def hinge_discriminator(fakes: Maps, reals: Maps) -> tuple[Tensor, Tensor]:
    """mean(max(0, 1 + D(fake))) and mean(max(0, 1 - D(real))), each averaged over the scales."""
    fake = torch.stack([F.relu(1 + wide(maps[-1])).mean() for maps in fakes]).mean()
    real = torch.stack([F.relu(1 - wide(maps[-1])).mean() for maps in reals]).mean()
    return fake, real


def hinge_generator(fakes: Maps) -> Tensor:
    """-mean(D(fake)), averaged over the scales."""
    return -torch.stack([wide(maps[-1]).mean() for maps in fakes]).mean()


def feature_matching(fakes: Maps, reals: Maps) -> Tensor:
    """L1 between the inner maps of fake and real, summed over maps, averaged over scales (pix2pixHD's loss)."""
    terms = [
        l1(f, r.detach())
        for fake, real in zip(fakes, reals, strict=True)
        for f, r in zip(fake[:-1], real[:-1], strict=True)
    ]
    return torch.stack(terms).sum() / len(fakes)


def color(fake: Tensor, photo: Tensor) -> Tensor:
    """L1 between the colours of two images [N,3,H,W], each averaged over a grid of 16 x 16 squares. Not in the paper.

    Adversarial and perceptual losses look at texture, and are almost content with a wall of the wrong colour: the
    encoder then has little reason to tell the generator a photo's colours. This gives it one.
    """
    return l1(*(F.adaptive_avg_pool2d(wide(x), COLOR_GRID) for x in (fake, photo)))


def l1(x: Tensor, target: Tensor) -> Tensor:
    """mean |x - target| in float32, with a gradient for x alone."""
    distance: Tensor = _L1.apply(x, target)  # type: ignore[no-untyped-call]
    return distance


class _L1(torch.autograd.Function):
    """As F.l1_loss, but half-precision feature maps are never copied to float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(x, target)
        dtype = torch.promote_types(x.dtype, torch.float32)
        return (x - target).abs_().sum(dtype=dtype) / x.numel()

    @staticmethod
    @first_order_only
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, target = ctx.saved_tensors
        return (x - target).sign_().mul_(gradient / x.numel()), None


def kl_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, exp(logvar)) || N(0, I)): summed over dimensions, mean over the samples [N,Z]."""
    mu, logvar = wide(mu), wide(logvar)
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum(1).mean()


def wide(x: Tensor) -> Tensor:
    """x in float32, or in float64 where it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
