"""Fixed linear maps folded into the weights beside them.

Batch norm goes into SPADE's modulation for inference, which leaves one multiply-add per value; the moments of the
encoder's style codes go into the layers that write and read z.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..model.layers import EPS
from ..model.spade import SPADE


def can_fold(layer: SPADE) -> bool:
    """Whether the layer's norm is a fixed scale and shift in evaluation: batch norm is, instance norm is not."""
    return _statistics(layer) is not None


@torch.no_grad()
def folded_modulation(layer: SPADE) -> tuple[Tensor, Tensor]:
    """Return weight [2·C,hidden,k,k] and bias [2·C] of a convolution with halves g and b, so that SPADE is x·g + b.

    With s = 1/sqrt(var + eps) and t = -mean·s the norm is x·s + t, so that norm(x)·(1 + gamma) + beta is
    x·s·(1 + gamma) + (beta + t·(1 + gamma)). Both coefficients are linear in the hidden activation, as gamma and beta
    are. Computed in float64, returned in the layer's dtype. If the norm cannot be folded (instance norm), g is
    1 + gamma and b is beta, to be applied to norm(x).
    """
    conv = layer.gamma_beta
    weight = conv.weight.double()
    bias = (
        torch.zeros(len(weight), dtype=torch.float64, device=weight.device) if conv.bias is None else conv.bias.double()
    )
    (gamma_weight, beta_weight), (gamma_bias, beta_bias) = weight.chunk(2), bias.chunk(2)
    gamma_bias = 1 + gamma_bias
    if statistics := _statistics(layer):
        mean, variance = statistics
        scale = (variance + EPS).rsqrt()
        shift = -mean * scale
        beta_weight = beta_weight + shift[:, None, None, None] * gamma_weight
        beta_bias = beta_bias + shift * gamma_bias
        gamma_weight, gamma_bias = scale[:, None, None, None] * gamma_weight, scale * gamma_bias
    dtype = conv.weight.dtype
    return torch.cat([gamma_weight, beta_weight]).to(dtype), torch.cat([gamma_bias, beta_bias]).to(dtype)


@torch.no_grad()
def fold_posterior(
    generator: Mapping[str, Tensor], encoder: Mapping[str, Tensor], mean: Tensor, deviation: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the effective weights of generator and encoder for the style code z' = (z - mean) / deviation.

    mean, deviation: [Z], of the encoder's codes over photographs. Renders of encoded photographs stay as they are;
    z' ~ N(0, I) is drawn where the encoder's codes lie, and z ~ N(0, I) was not. Computed in float64, returned in the
    weights' dtype.
    """
    folded, encoding = dict(generator), dict(encoder)
    m, s = mean.double(), deviation.double()

    def put(state: dict[str, Tensor], name: str, value: Tensor) -> None:
        state[name] = value.to(state[name].dtype)

    weight = generator["fc.weight"].double()
    put(folded, "fc.weight", weight * s)
    put(folded, "fc.bias", generator["fc.bias"].double() + weight @ m)
    put(encoding, "fc_mu.weight", encoder["fc_mu.weight"].double() / s[:, None])
    put(encoding, "fc_mu.bias", (encoder["fc_mu.bias"].double() - m) / s)
    put(encoding, "fc_logvar.bias", encoder["fc_logvar.bias"].double() - 2 * s.log())
    return folded, encoding


def _statistics(layer: SPADE) -> tuple[Tensor, Tensor] | None:
    """Return running mean and variance of the layer's norm in float64, or None if it has none."""
    norm = layer.norm
    if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None or norm.running_var is None:
        return None
    return norm.running_mean.double(), norm.running_var.double()
