"""Style codes: the encoder's posterior of a photo, and how several are mixed into one (section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import UserError


@dataclass(frozen=True, eq=False)
class StyleCode:
    """The posterior of z given a photo: a Gaussian of mean ``mu`` and log variance ``logvar``, each float32 [Z]."""

    mu: NDArray[np.float32]
    logvar: NDArray[np.float32]

    def z(
        self, strength: float = 1.0, noise: float = 0.0, eps: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return strength·mu + noise·exp(logvar/2)·eps, float32 [Z]; without eps (float32 [Z]) no noise is added."""
        mean = np.float32(strength) * self.mu
        return mean if eps is None or not noise else mean + np.float32(noise) * np.exp(self.logvar / 2) * eps


def mix(codes: Sequence[StyleCode], weights: Sequence[float], spherical: bool = False) -> StyleCode:
    """Interpolate between (or extrapolate beyond) several codes; the weights are divided by their sum.

    mu is the weighted mean. spherical, for two codes only: direction and length of mu are interpolated separately, so
    that the midpoint of two different styles is not a weak one. logvar is the weighted mean in both cases, which is the
    geometric mean of the variances.
    Raises UserError if the weights add up to 0 or less, or if a spherical mix is asked of more or fewer than two codes.
    """
    total = sum(weights)
    if not total > 0:
        raise UserError(f"weights {', '.join(f'{w:g}' for w in weights)} add up to {total:g}; expected more than 0")
    shares = np.array(weights, np.float64) / total
    logvar = shares @ np.stack([code.logvar for code in codes]).astype(np.float64)
    if not spherical:
        mu = shares @ np.stack([code.mu for code in codes]).astype(np.float64)
    elif len(codes) == 2:
        mu = _turn(codes[0].mu.astype(np.float64), codes[1].mu.astype(np.float64), float(shares[1]))
    else:
        raise UserError(f"a spherical mix takes two styles, not {len(codes)}")
    return StyleCode(mu.astype(np.float32), logvar.astype(np.float32))


def _turn(a: NDArray[np.float64], b: NDArray[np.float64], t: float) -> NDArray[np.float64]:
    """Interpolate spherically from a (t = 0) to b (t = 1); linearly where the directions are (anti)parallel."""
    length_a, length_b = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    straight: NDArray[np.float64] = (1 - t) * a + t * b
    if not length_a or not length_b:
        return straight
    angle = np.arccos(np.clip(a @ b / (length_a * length_b), -1, 1))
    if np.sin(angle) < 1e-6:
        return straight
    way: NDArray[np.float64] = (np.sin((1 - t) * angle) * a / length_a + np.sin(t * angle) * b / length_b) / np.sin(
        angle
    )
    return ((1 - t) * length_a + t * length_b) * way
