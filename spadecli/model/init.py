"""Initialization of the networks."""

from __future__ import annotations

import torch
from torch import nn

from .layers import SpectralConv2d
from .spade import SPADE

GAIN = 0.02


@torch.no_grad()
def initialize(network: nn.Module, seed: int) -> None:
    """Set Xavier-normal weights with gain 0.02 and zero biases, determined by ``seed`` alone."""
    generator = torch.Generator().manual_seed(seed)
    halves = {id(m.gamma_beta) for m in network.modules() if isinstance(m, SPADE)}
    for module in network.modules():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        # gamma and beta are two convolutions in the paper: each half has its own fan-out
        for part in module.weight.chunk(2) if id(module) in halves else (module.weight,):
            nn.init.xavier_normal_(part, GAIN, generator)
        if module.bias is not None:
            module.bias.zero_()
        if isinstance(module, SpectralConv2d):
            module.weight_u.copy_(
                nn.functional.normalize(torch.randn(len(module.weight_u), generator=generator), dim=0)
            )
            module.power_iteration(15)  # so that the first steps divide by an accurate sigma, as in torch
