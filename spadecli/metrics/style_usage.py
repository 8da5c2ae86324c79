"""How much of the style code is used, and whether a style carries over: posterior collapse is measured, not guessed.

The encoder may write nothing into z (KL near 0: posterior collapse), the generator may ignore z (it explains no
variance), or z may carry something other than the style (renders are no nearer to their own reference).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UserError
from ..core.seeds import sample_seed, sample_z
from ..weights.card import Card

ACTIVE_NATS = 0.01  # a dimension with less KL says nothing about the photo
NUM_SAMPLES = 8  # per mask
PHOTOS_PER_CALL = 16


class StyledNetwork(Protocol):
    """The part of :class:`spadecli.backends.base.Backend` that is needed here."""

    card: Card

    def run(
        self, labels: NDArray[np.uint8], edges: NDArray[np.uint8] | None, z: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Render masks."""

    def encode(self, photos: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Encode photos."""


@dataclass(frozen=True)
class StyleUsage:
    """How much of the style code is used.

    z_share: share of a pixel's variance, over masks and over z ~ N(0, I), that is due to z; 0..1.
    num_masks, num_samples: masks, and samples per mask, that this was measured on.
    num_photos: number of encoded photos; if it is 0, the following are None.
    kl: KL divergence of each latent dimension from N(0, 1), averaged over photos, in nats, in descending order.
    active: number of dimensions above ACTIVE_NATS. mu_rms: root mean square of mu.
    """

    z_dim: int
    num_masks: int
    num_samples: int
    z_share: float
    num_photos: int = 0
    kl: tuple[float, ...] | None = None
    active: int | None = None
    mu_rms: float | None = None

    @property
    def kl_total(self) -> float | None:
        """Information about a photo in its style code, in nats."""
        return None if self.kl is None else sum(self.kl)

    def as_json(self) -> dict[str, Any]:
        """Return plain values, for cards and JSON output."""
        kl = None if self.kl is None else [round(x, 4) for x in self.kl]
        total = None if self.kl_total is None else round(self.kl_total, 3)
        rms = None if self.mu_rms is None else round(self.mu_rms, 4)
        derived = {"z_share": round(self.z_share, 4), "kl": kl, "kl_total": total, "mu_rms": rms}
        return {**asdict(self), **derived, "active_nats": ACTIVE_NATS}


@dataclass(frozen=True)
class Match:
    """Distances of outputs to their own references, compared with distances to the other references.

    right, shuffled: these mean distances. top1: share of the outputs whose own reference is the nearest; chance level
    is 1 / num_references.
    """

    right: float
    shuffled: float
    top1: float
    num_outputs: int
    num_references: int

    @property
    def ratio(self) -> float:
        """right / shuffled: 1 if nothing carries over, 0 if everything does."""
        return self.right / self.shuffled if self.shuffled else float("nan")

    def as_json(self) -> dict[str, float | int]:
        """Return plain values, for JSON output."""
        rounded = {k: round(v, 4) for k, v in asdict(self).items()}
        return {**rounded, "ratio": round(self.ratio, 4)}


def style_usage(
    network: StyledNetwork, labels: NDArray[np.uint8], photos: NDArray[np.float32] | None = None
) -> StyleUsage:
    """Measure an open backend on label maps uint8 [M,H,W] (file values) and photos float32 [N,3,H,W] in [-1,1].

    Renders NUM_SAMPLES images per mask, one mask at a time, with edge channels of zeros. Without photos the encoder is
    not measured.
    Raises UserError if the weights use no z, or if there are fewer than 2 masks.
    """
    card = network.card
    if not card.architecture.uses_z:
        raise UserError(f"weights {card.name!r} use no style code (latent = map), so there is nothing to measure")
    z_dim = card.architecture.z_dim
    z = np.stack([sample_z(sample_seed(0, "style", i), z_dim) for i in range(NUM_SAMPLES)])
    share = variance_share(network.run(mask[None], None, z) for mask in labels)
    if photos is None:
        return StyleUsage(z_dim, len(labels), NUM_SAMPLES, share)
    mu, logvar = encode_all(network, photos)
    kl = np.sort(kl_per_dimension(mu, logvar))[::-1]
    return StyleUsage(
        z_dim=z_dim,
        num_masks=len(labels),
        num_samples=NUM_SAMPLES,
        z_share=share,
        num_photos=len(mu),
        kl=tuple(kl.tolist()),
        active=int((kl > ACTIVE_NATS).sum()),
        mu_rms=float(np.sqrt(np.mean(np.square(mu, dtype=np.float64)))),
    )


def encode_all(network: StyledNetwork, photos: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Encode photos float32 [N,3,H,W] in [-1,1] in small batches: (mu, logvar), each float32 [N,Z]."""
    starts = range(0, len(photos), PHOTOS_PER_CALL)
    codes = [network.encode(photos[i : i + PHOTOS_PER_CALL]) for i in starts]
    return np.concatenate([mu for mu, _ in codes]), np.concatenate([logvar for _, logvar in codes])


def kl_per_dimension(mu: NDArray[np.float32], logvar: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return KL(N(mu, exp(logvar)) || N(0, 1)) per dimension in nats, averaged over rows: [N,Z] -> float64 [Z]."""
    m, v = mu.astype(np.float64), logvar.astype(np.float64)
    mean: NDArray[np.float64] = (0.5 * (m**2 + np.exp(v) - 1 - v)).mean(axis=0)
    return mean


def variance_share(groups: Iterable[NDArray[np.float32]]) -> float:
    """Return the share of the variance within groups; each is the outputs [S,...] of one mask for S draws of z.

    These are the components of a random-effects analysis of variance, averaged over pixels: the variance within groups
    divided by the sum of those within and between, each unbiased, so that the share does not depend on S.
    Groups are consumed one at a time.
    Raises UserError if there are fewer than 2 groups, or fewer than 2 members in one.
    """
    within, means, size = 0.0, [], 0
    for group in groups:
        size = len(group)
        if size < 2:
            raise UserError("the share of z needs at least 2 samples per mask")
        flat = group.reshape(size, -1).astype(np.float64)
        within += float(flat.var(axis=0, ddof=1).mean())
        means.append(flat.mean(axis=0).astype(np.float32))
    if len(means) < 2:
        raise UserError("the share of z needs at least 2 masks, to compare with the variance between masks")
    within /= len(means)
    between = max(0.0, float(np.var(means, axis=0, ddof=1, dtype=np.float64).mean()) - within / size)
    return within / (within + between) if within else 0.0


def match(outputs: NDArray[Any], references: NDArray[Any]) -> Match:
    """Compare outputs [M,R,D] (of M masks with R references each) with references [R,D] by Euclidean distance.

    The D values may be a colour or a style code. Entries with NaN (a class that a picture does not show) are ignored.
    Raises UserError if there are fewer than 2 references.
    """
    num = len(references)
    if num < 2:
        raise UserError("comparing right with shuffled references needs at least 2 references")
    distance = np.linalg.norm(
        outputs[:, :, None].astype(np.float64) - references[None, None].astype(np.float64), axis=-1
    )
    own = np.eye(num, dtype=bool)
    nearest = np.where(np.isnan(distance), np.inf, distance).argmin(axis=-1)
    seen = ~np.isnan(distance[:, own])
    return Match(
        right=float(np.nanmean(distance[:, own])),
        shuffled=float(np.nanmean(distance[:, ~own])),
        top1=float((nearest == np.arange(num))[seen].mean()),
        num_outputs=int(seen.sum()),
        num_references=num,
    )
