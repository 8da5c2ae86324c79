"""The losses of a training step (section 3.3, appendix A): every term, and the table of the generator's.

To add a term to the generator's loss: write a function here, enter it in :data:`GENERATOR_TERMS`, and add its weight to
the recipe's ``[loss]`` section (core/recipe.py). Logs take the names from the table. The adversarial terms belong to
the discriminator (discriminator.py); the perceptual network is in perceptual.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ..compute.autograd import first_order_only
from ..core.recipe import LossSection

COLOR_GRID = 16
Maps = list[list[Tensor]]  # per scale of the discriminator: the inner feature maps, then the patch scores


class Adversary(Protocol):
    """The losses of a discriminator, computed from its feature maps (see discriminator.py)."""

    def generator_loss(self, fakes: Maps) -> Tensor:
        """Return the adversarial loss of the generator."""
        ...

    def discriminator_losses(self, fakes: Maps, reals: Maps) -> tuple[Tensor, Tensor]:
        """Return the two terms of the discriminator's loss: for the fakes and for the photographs."""
        ...


@dataclass(frozen=True)
class ForwardPass:
    """The results of one forward pass of all networks, from which the losses are computed.

    fake, photo: [N,3,H,W] in [-1,1]. fakes, reals: the discriminator's feature maps of each.
    adversary: the discriminator. mu, logvar: the encoder's posterior, [N,Z]; None without an encoder.
    perceptual: the perceptual loss; None without such a network.
    """

    fake: Tensor
    photo: Tensor
    fakes: Maps
    reals: Maps
    adversary: Adversary
    mu: Tensor | None
    logvar: Tensor | None
    perceptual: Callable[[Tensor, Tensor], Tensor] | None


@dataclass(frozen=True)
class Term:
    """One term of the generator's loss.

    weight: its weight in a recipe. value: computes the scalar, or None if the networks have no such term.
    always: compute and log it even at weight 0.
    """

    weight: Callable[[LossSection], float]
    value: Callable[[ForwardPass], Tensor | None]
    always: bool = False


GENERATOR_TERMS: dict[str, Term] = {
    "g_hinge": Term(lambda loss: 1.0, lambda done: done.adversary.generator_loss(done.fakes)),
    "feature_matching": Term(lambda loss: loss.feature_matching, lambda done: feature_matching(done.fakes, done.reals)),
    "perceptual": Term(
        lambda loss: loss.perceptual,
        lambda done: done.perceptual(done.fake, done.photo) if done.perceptual is not None else None,
    ),
    "color": Term(lambda loss: loss.color, lambda done: color(done.fake, done.photo)),
    "kl": Term(
        lambda loss: loss.kl * loss.kl_reference_batch,
        lambda done: kl_divergence(done.mu, done.logvar) if done.mu is not None and done.logvar is not None else None,
        always=True,
    ),
}
DISCRIMINATOR_TERMS = ("d_fake", "d_real")


def generator_losses(done: ForwardPass, weights: LossSection) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of generator and encoder, and its terms before weighting (0 for terms that are off)."""
    total, terms = at_least_fp32(done.fake).new_zeros(()), {}
    for name, term in GENERATOR_TERMS.items():
        weight = term.weight(weights)
        value = term.value(done) if weight or term.always else None
        terms[name] = total.new_zeros(()) if value is None else value.detach()
        if value is not None and weight:
            total = total + weight * value
    return total, terms


def discriminator_losses(done: ForwardPass) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the discriminator's loss and its terms."""
    values = done.adversary.discriminator_losses(done.fakes, done.reals)
    terms = dict(zip(DISCRIMINATOR_TERMS, values, strict=True))
    return torch.stack(values).sum(), {name: value.detach() for name, value in terms.items()}


def hinge_discriminator(fakes: Maps, reals: Maps) -> tuple[Tensor, Tensor]:
    """Return mean(max(0, 1 + D(fake))) and mean(max(0, 1 - D(real))), each averaged over the scales."""
    fake = torch.stack([F.relu(1 + at_least_fp32(maps[-1])).mean() for maps in fakes]).mean()
    real = torch.stack([F.relu(1 - at_least_fp32(maps[-1])).mean() for maps in reals]).mean()
    return fake, real


def hinge_generator(fakes: Maps) -> Tensor:
    """Return -mean(D(fake)), averaged over the scales."""
    return -torch.stack([at_least_fp32(maps[-1]).mean() for maps in fakes]).mean()


def feature_matching(fakes: Maps, reals: Maps) -> Tensor:
    """Return L1 between the inner feature maps of fakes and photos, summed over layers and averaged over scales.

    This is the feature matching loss of pix2pixHD (Wang et al., CVPR 2018).
    """
    terms = [
        l1(f, r.detach())
        for fake, real in zip(fakes, reals, strict=True)
        for f, r in zip(fake[:-1], real[:-1], strict=True)
    ]
    return torch.stack(terms).sum() / len(fakes)


def color(fake: Tensor, photo: Tensor) -> Tensor:
    """Return L1 between two images [N,3,H,W] averaged over a grid of 16 x 16 squares. Not in the paper.

    Adversarial and perceptual losses judge texture and hardly penalise a wall of the wrong colour, so the encoder has
    little reason to pass a photo's colours on to the generator. This term gives it one.
    """
    return l1(*(F.adaptive_avg_pool2d(at_least_fp32(x), COLOR_GRID) for x in (fake, photo)))


def l1(x: Tensor, target: Tensor) -> Tensor:
    """Return mean |x - target|, summed in float32 or wider, with a gradient for x alone."""
    distance: Tensor = _L1.apply(x, target)  # type: ignore[no-untyped-call]
    return distance


class _L1(torch.autograd.Function):
    """Like F.l1_loss, but without copying half-precision feature maps to float32."""

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
    """Return KL(N(mu, exp(logvar)) || N(0, I)) of [N,Z], summed over dimensions and averaged over samples."""
    mu, logvar = at_least_fp32(mu), at_least_fp32(logvar)
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum(1).mean()


def at_least_fp32(x: Tensor) -> Tensor:
    """Return x in float32, or unchanged if it is float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
