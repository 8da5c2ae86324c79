"""The losses of a training step (section 3.3, appendix A): every term, and the table of the generator's.

To add a term to the generator's loss: write a function here, enter it in :data:`GENERATOR_TERMS`, and add its weight to
the recipe's ``[loss]`` section (core/recipe.py). Logs take the names from the table. The adversarial terms belong to
the discriminator (discriminator.py); the perceptual network is in perceptual.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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


FeaturePair = tuple[Sequence[Tensor], Sequence[Tensor]]  # feature maps of renders and of their photos


class FeatureLoss(Protocol):
    """Losses in the features of a frozen classifier (see perceptual.py)."""

    def compare(self, fake: Tensor, real: Tensor) -> FeaturePair:
        """Compute the feature maps of both; the photos' carry no gradient."""
        ...

    def distance(self, pair: FeaturePair) -> Tensor:
        """Return the perceptual loss."""
        ...

    def gram(self, pair: FeaturePair) -> Tensor:
        """Return the distance of the Gram matrices."""
        ...


@dataclass(frozen=True)
class ForwardPass:
    """The results of one forward pass of all networks, from which the losses are computed.

    The fakes of the rows ``reconstructed`` (None: all) have z from the encoder and are compared with their photos; the
    others have z from N(0, I) and meet the adversarial loss alone.
    fake, photo: [N,3,H,W] in [-1,1]. fakes, reals: the discriminator's feature maps of each.
    adversary: the discriminator. mu, logvar: the encoder's posterior of the rows ``reconstructed``; None without one.
    perceptual: the perceptual loss; None without such a network.
    """

    fake: Tensor
    photo: Tensor
    fakes: Maps
    reals: Maps
    adversary: Adversary
    mu: Tensor | None
    logvar: Tensor | None
    perceptual: FeatureLoss | None
    reconstructed: Tensor | None

    @cached_property
    def pair(self) -> tuple[Tensor, Tensor]:
        """The renders that have a photo to equal, and these photos."""
        return self._rows(self.fake), self._rows(self.photo)

    @cached_property
    def map_pairs(self) -> tuple[Maps, Maps]:
        """The discriminator's maps of :attr:`pair`."""
        fakes, reals = ([[self._rows(m) for m in maps] for maps in scales] for scales in (self.fakes, self.reals))
        return fakes, reals

    def _rows(self, values: Tensor) -> Tensor:
        return values if self.reconstructed is None else values.index_select(0, self.reconstructed)

    @cached_property
    def features(self) -> FeaturePair | None:
        """The perceptual network's maps of :attr:`pair`; one pass serves both terms that look at them."""
        return self.perceptual.compare(*self.pair) if self.perceptual is not None else None


@dataclass(frozen=True)
class Term:
    """One term of the generator's loss.

    weight: its weight in a recipe. value: computes the scalar, or None if the networks have no such term.
    always: compute and log it even at weight 0.
    """

    weight: Callable[[LossSection], float]
    value: Callable[[ForwardPass], Tensor | None]
    always: bool = False


def _perceptual(done: ForwardPass) -> Tensor | None:
    return done.perceptual.distance(done.features) if done.perceptual and done.features else None


def _gram(done: ForwardPass) -> Tensor | None:
    return done.perceptual.gram(done.features) if done.perceptual and done.features else None


GENERATOR_TERMS: dict[str, Term] = {
    "g_hinge": Term(lambda loss: 1.0, lambda done: done.adversary.generator_loss(done.fakes)),
    "feature_matching": Term(lambda loss: loss.feature_matching, lambda done: feature_matching(*done.map_pairs)),
    "perceptual": Term(lambda loss: loss.perceptual, _perceptual),
    "gram": Term(lambda loss: loss.gram, _gram),
    "color": Term(lambda loss: loss.color, lambda done: color(*done.pair)),
    "kl": Term(
        lambda loss: loss.kl * loss.kl_reference_batch,
        lambda done: kl_divergence(done.mu, done.logvar) if done.mu is not None and done.logvar is not None else None,
        always=True,
    ),
}
DISCRIMINATOR_TERMS = ("d_fake", "d_real")


def generator_terms(done: ForwardPass, weights: LossSection) -> dict[str, Tensor]:
    """Return the terms of the generator's loss that are on, before weighting."""
    values = {}
    for name, term in GENERATOR_TERMS.items():
        value = term.value(done) if term.weight(weights) or term.always else None
        if value is not None:
            values[name] = value
    return values


def weighted_sum(
    values: Mapping[str, Tensor], weights: LossSection, balanced: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Return the loss of generator and encoder: terms by their weights, or by ``balanced`` ones."""
    factors = {name: GENERATOR_TERMS[name].weight(weights) for name in values} | dict(balanced or {})
    return torch.stack([factors[name] * value for name, value in values.items()]).sum()


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
