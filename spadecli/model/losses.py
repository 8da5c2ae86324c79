"""What a training step optimises (section 3.3, appendix A): every loss term, and the table of them.

A new term of the generator's loss is a function here, an entry in :data:`GENERATOR_TERMS`, and a weight in the recipe's
``[loss]`` section (core/recipe.py). Logs, sheets and the progress bar take the names from the table. The adversarial
terms are the discriminator's own (discriminator.py); the perceptual network has its own file.
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
Maps = list[list[Tensor]]  # per scale: the inner feature maps, then the scores


class Adversary(Protocol):
    """A discriminator's own losses, of the maps that it made (see discriminator.py)."""

    def generator_loss(self, fakes: Maps) -> Tensor:
        """What the generator minimises."""
        ...

    def discriminator_losses(self, fakes: Maps, reals: Maps) -> tuple[Tensor, Tensor]:
        """What the discriminator minimises: a term for the fakes and one for the photographs."""
        ...


@dataclass(frozen=True)
class ForwardPass:
    """What the losses look at after one forward pass of all networks.

    fake, photo: [N,3,H,W] in [-1,1]. fakes, reals: the discriminator's maps of either. adversary: the discriminator.
    mu, logvar: of the encoder, [N,Z], None without one. perceptual: distance of two batches of images, None if there
    is no such network.
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

    weight: what it counts, by the recipe. value: a scalar, or None for networks that have no such term.
    always: computed and logged at weight 0 too.
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
    """The generator's and encoder's loss, and its terms before they are weighted; 0 for those that are off."""
    total, terms = at_least_fp32(done.fake).new_zeros(()), {}
    for name, term in GENERATOR_TERMS.items():
        weight = term.weight(weights)
        value = term.value(done) if weight or term.always else None
        terms[name] = total.new_zeros(()) if value is None else value.detach()
        if value is not None and weight:
            total = total + weight * value
    return total, terms


def discriminator_losses(done: ForwardPass) -> tuple[Tensor, dict[str, Tensor]]:
    """The discriminator's loss, and its terms."""
    values = done.adversary.discriminator_losses(done.fakes, done.reals)
    terms = dict(zip(DISCRIMINATOR_TERMS, values, strict=True))
    return torch.stack(values).sum(), {name: value.detach() for name, value in terms.items()}


def hinge_discriminator(fakes: Maps, reals: Maps) -> tuple[Tensor, Tensor]:
    """mean(max(0, 1 + D(fake))) and mean(max(0, 1 - D(real))), each averaged over the scales."""
    fake = torch.stack([F.relu(1 + at_least_fp32(maps[-1])).mean() for maps in fakes]).mean()
    real = torch.stack([F.relu(1 - at_least_fp32(maps[-1])).mean() for maps in reals]).mean()
    return fake, real


def hinge_generator(fakes: Maps) -> Tensor:
    """-mean(D(fake)), averaged over the scales."""
    return -torch.stack([at_least_fp32(maps[-1]).mean() for maps in fakes]).mean()


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
    return l1(*(F.adaptive_avg_pool2d(at_least_fp32(x), COLOR_GRID) for x in (fake, photo)))


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
    mu, logvar = at_least_fp32(mu), at_least_fp32(logvar)
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum(1).mean()


def at_least_fp32(x: Tensor) -> Tensor:
    """x in float32, or in float64 where it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
