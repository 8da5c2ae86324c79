"""How much of the style code is used, and whether a style carries over: posterior collapse is seen, not guessed.

The encoder may write nothing into z (KL near 0: collapse), the generator may not read what is there (z explains no
variance), or z may hold something else than was hoped for (renders are no nearer to their own reference).
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

ACTIVE_NATS = 0.01  # a dimension below it says nothing about the photo
NUM_SAMPLES = 8
PHOTOS_PER_CALL = 16


class StyledNetwork(Protocol):
    """What is needed of a :class:`spadecli.backends.base.Backend`."""

    card: Card

    def run(
        self, labels: NDArray[np.uint8], edges: NDArray[np.uint8] | None, z: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Render."""

    def encode(self, photos: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Encode."""


@dataclass(frozen=True)
class StyleUsage:
    """How much style is used.

    z_share: share of the variance of a pixel, over masks and over z ~ N(0, I), that is due to z; 0 to 1.
    num_masks, num_samples: what that was measured on.
    num_photos: photos that were encoded, 0 without any; the next are None then.
    kl: mean KL divergence from N(0, I) of each latent dimension over the photos, in nats, the largest first.
    active: how many of them exceed ACTIVE_NATS. mu_rms: root mean square of mu.
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
        """Nats that the encoder writes about a photo."""
        return None if self.kl is None else sum(self.kl)

    def as_json(self) -> dict[str, Any]:
        """Plain values, for cards and programs."""
        kl = None if self.kl is None else [round(x, 4) for x in self.kl]
        total = None if self.kl_total is None else round(self.kl_total, 3)
        rms = None if self.mu_rms is None else round(self.mu_rms, 4)
        derived = {"z_share": round(self.z_share, 4), "kl": kl, "kl_total": total, "mu_rms": rms}
        return {**asdict(self), **derived, "active_nats": ACTIVE_NATS}


@dataclass(frozen=True)
class Match:
    """Distances of outputs to their own references against all other references.

    right, shuffled: mean distances. top1: how often an output's own reference is the nearest; chance is
    1 / number of references.
    """

    right: float
    shuffled: float
    top1: float
    num_outputs: int
    num_references: int

    @property
    def ratio(self) -> float:
        """right / shuffled: 1 where nothing carries over, 0 where everything does."""
        return self.right / self.shuffled if self.shuffled else float("nan")

    def as_json(self) -> dict[str, float | int]:
        """Plain values, for programs."""
        rounded = {k: round(v, 4) for k, v in asdict(self).items()}
        return {**rounded, "ratio": round(self.ratio, 4)}


def style_usage(
    network: StyledNetwork,
    labels: NDArray[np.uint8],
    photos: NDArray[np.float32] | None = None,
    num_samples: int = NUM_SAMPLES,
) -> StyleUsage:
    """Measure an open backend on label maps uint8 [M,H,W] (file values) and photos float32 [N,3,H,W] in [-1,1].

    Renders M x num_samples images, one mask at a time. Edge channels are fed zeros. Without photos, the encoder's
    part is left out.
    Raises UserError where the weights have no z, or there are fewer than 2 masks or samples.
    """
    card = network.card
    if not card.architecture.uses_z:
        raise UserError(f"weights {card.name!r} start from the map alone (latent = map): there is no style to measure")
    z_dim = card.architecture.z_dim
    z = np.stack([sample_z(sample_seed(0, "style", i), z_dim) for i in range(num_samples)])
    share = variance_share(network.run(mask[None], None, z) for mask in labels)
    if photos is None:
        return StyleUsage(z_dim, len(labels), num_samples, share)
    mu, logvar = encode_all(network, photos)
    kl = np.sort(kl_per_dimension(mu, logvar))[::-1]
    return StyleUsage(
        z_dim=z_dim,
        num_masks=len(labels),
        num_samples=num_samples,
        z_share=share,
        num_photos=len(mu),
        kl=tuple(kl.tolist()),
        active=int((kl > ACTIVE_NATS).sum()),
        mu_rms=float(np.sqrt(np.mean(np.square(mu, dtype=np.float64)))),
    )


def encode_all(network: StyledNetwork, photos: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(mu, logvar), each float32 [N,Z], of photos float32 [N,3,H,W] in [-1,1], a few at a time."""
    starts = range(0, len(photos), PHOTOS_PER_CALL)
    codes = [network.encode(photos[i : i + PHOTOS_PER_CALL]) for i in starts]
    return np.concatenate([mu for mu, _ in codes]), np.concatenate([logvar for _, logvar in codes])


def kl_per_dimension(mu: NDArray[np.float32], logvar: NDArray[np.float32]) -> NDArray[np.float64]:
    """KL(N(mu, exp(logvar)) || N(0, 1)) of each dimension in nats, the mean over rows: [N,Z] -> float64 [Z]."""
    m, v = mu.astype(np.float64), logvar.astype(np.float64)
    mean: NDArray[np.float64] = (0.5 * (m**2 + np.exp(v) - 1 - v)).mean(axis=0)
    return mean


def variance_share(groups: Iterable[NDArray[np.float32]]) -> float:
    """Share of the variance that is within groups: one group a mask, [S,...] outputs of S draws of z each.

    By the components of a random-effects analysis of variance, of each pixel, averaged over pixels: the variance
    within over the sum of those within and between, each without bias, so that the share does not depend on S.
    Groups are looked at one at a time.
    Raises UserError with fewer than 2 groups, or 2 members each.
    """
    within, means, size = 0.0, [], 0
    for group in groups:
        size = len(group)
        if size < 2:
            raise UserError("the share of z needs 2 samples a mask or more")
        flat = group.reshape(size, -1).astype(np.float64)
        within += float(flat.var(axis=0, ddof=1).mean())
        means.append(flat.mean(axis=0).astype(np.float32))
    if len(means) < 2:
        raise UserError("the share of z needs 2 masks or more, to compare with what the mask explains")
    within /= len(means)
    between = max(0.0, float(np.var(means, axis=0, ddof=1, dtype=np.float64).mean()) - within / size)
    return within / (within + between) if within else 0.0


def match(outputs: NDArray[Any], references: NDArray[Any]) -> Match:
    """Compare outputs [M,R,D] (of M masks with R references each) with references [R,D], by Euclidean distance.

    D may be a colour or a style code. Entries with NaN (a class that a picture does not show) are left out.
    Raises UserError with fewer than 2 references.
    """
    num = len(references)
    if num < 2:
        raise UserError("right against shuffled references needs 2 references or more")
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
