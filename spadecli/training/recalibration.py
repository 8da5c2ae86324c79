"""What is measured for averaged weights: batch-norm statistics, and where the encoder's style codes lie.

Training averages the running statistics along with the weights, so they describe the activations of the individual
networks of the past. Those of the averaged network differ; here they are measured over batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ..model.encoder import ImageEncoder, reparameterize
from ..model.generator import Generator
from ..model.semantic import SemanticMap
from .ema import States

Inputs = tuple[SemanticMap, Tensor, Tensor]  # semantic map, photos [N,3,H,W] in [-1,1], noise [N,Z]


@torch.no_grad()
def recalibrate(generator: Generator, encoder: ImageEncoder | None, batches: Iterable[Inputs]) -> None:
    """Set the generator's batch-norm statistics, in place, to their mean over ``batches``, each weighted equally.

    z comes from the photos as in training. Networks are in evaluation mode before and after.
    """
    norms = _batch_norms(generator)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
        norm.train()
    try:
        for semantic, photo, eps in batches:
            z = eps
            if encoder is not None:
                mu, logvar = encoder(photo)
                z = reparameterize(mu, logvar, eps)
            generator(semantic, z if generator.arch.uses_z else None)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()


@torch.no_grad()
def posterior_moments(encoder: ImageEncoder, photos: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation [Z] of the style codes of ``photos``, batches [N,3,H,W] in [-1,1].

    They are those of z drawn from the encoder's posterior of a photo drawn at random; float64.
    """
    heads = [encoder(batch) for batch in photos]
    mu, logvar = (torch.cat(parts).double() for parts in zip(*heads, strict=True))
    return mu.mean(0), (mu.var(0, correction=0) + logvar.exp().mean(0)).sqrt()


def with_statistics_of(states: States, generator: Generator) -> States:
    """Return ``states`` with their batch-norm statistics replaced by the generator's."""
    measured = {name: value for name, value in generator.state_dict().items() if _is_statistic(name)}
    return {**states, "generator": {**states["generator"], **measured}}


def deviation_change(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[float]:
    """Return the relative change in standard deviation of each channel of each norm: sqrt(after / before) - 1."""
    changes = [
        ((after[name] + 1e-12) / (value + 1e-12)).sqrt() - 1
        for name, value in before.items()
        if name.endswith("running_var")
    ]
    return [float(change) for change in torch.cat(changes).tolist()] if changes else []


def _batch_norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]


def _is_statistic(name: str) -> bool:
    return name.endswith(("running_mean", "running_var"))
