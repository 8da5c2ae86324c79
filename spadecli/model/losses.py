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


@dataclass(frozen=True)
class Verdict:
    """What a discriminator makes of a batch of fakes and photographs: the adversarial losses of both sides, scalars.

    generator, discriminator: the loss of each. terms: what the discriminator's is the weighted sum of, by the names in
    :data:`DISCRIMINATOR_TERMS`. maps: the feature maps of the fakes and of the photographs, for feature matching; None
    from a discriminator that has none to match.
    """

    generator: Tensor
    discriminator: Tensor
    terms: Mapping[str, Tensor]
    maps: tuple[Maps, Maps] | None


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
    others have z from the prior and meet the adversarial loss alone.
    fake, photo: [N,3,H,W] in [-1,1]. verdict: what the discriminator makes of them.
    mu, logvar: the encoder's posterior of the rows ``reconstructed``; None without one.
    perceptual: the perceptual loss; None without such a network.
    """

    fake: Tensor
    photo: Tensor
    verdict: Verdict
    mu: Tensor | None
    logvar: Tensor | None
    perceptual: FeatureLoss | None
    reconstructed: Tensor | None

    @cached_property
    def pair(self) -> tuple[Tensor, Tensor]:
        """The renders that have a photo to equal, and these photos."""
        return self._rows(self.fake), self._rows(self.photo)

    @cached_property
    def map_pairs(self) -> tuple[Maps, Maps] | None:
        """The discriminator's maps of :attr:`pair`, if it has any."""
        if self.verdict.maps is None:
            return None
        fakes, reals = ([[self._rows(m) for m in maps] for maps in scales] for scales in self.verdict.maps)
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
    # the adversarial loss of any discriminator; logs keep the name of the first one's
    "g_hinge": Term(lambda loss: 1.0, lambda done: done.verdict.generator),
    "feature_matching": Term(
        lambda loss: loss.feature_matching,
        lambda done: feature_matching(*done.map_pairs) if done.map_pairs is not None else None,
    ),
    "perceptual": Term(lambda loss: loss.perceptual, _perceptual),
    "gram": Term(lambda loss: loss.gram, _gram),
    "color": Term(lambda loss: loss.color, lambda done: color(*done.pair)),
    "kl": Term(
        lambda loss: loss.kl * loss.kl_reference_batch,
        lambda done: kl_divergence(done.mu, done.logvar) if done.mu is not None and done.logvar is not None else None,
        always=True,
    ),
}
DISCRIMINATOR_TERMS = ("d_fake", "d_real", "d_mix")  # d_mix: see segmentation.py


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


def hinge_verdict(fakes: Maps, reals: Maps) -> Verdict:
    """Return the hinge losses of both sides, from the feature maps of fakes and photographs."""
    d_fake, d_real = hinge_discriminator(fakes, reals)
    terms = {"d_fake": d_fake, "d_real": d_real}
    return Verdict(hinge_generator(fakes), torch.stack([d_fake, d_real]).sum(), terms, (fakes, reals))


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
