"""Fréchet distance between two sets of features, each modelled as a Gaussian (Heusel et al. 2017), in float64.

    d² = |m1 - m2|² + tr S1 + tr S2 - 2 tr (S1 S2)^½

With any factors S = Fᵀ F the last trace is the nuclear norm of F1 F2ᵀ (the sum of its singular values). If there are no
more images than dimensions, the factor is the centred feature matrix, which keeps the many zero eigenvalues out of the
sum; otherwise it is the symmetric square root of the covariance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UserError

F8 = NDArray[np.float64]
STREAM_ROWS = 4096


@dataclass(frozen=True)
class Statistics:
    """Moments of a set of features: count n, mean [D], and scatter [D,D], the sum of centred outer products."""

    n: int
    mean: F8
    scatter: F8

    @classmethod
    def of(cls, features: NDArray[np.floating]) -> Statistics:
        """Compute the statistics of features [N,D], N >= 1, in blocks, so that float64 copies stay small."""
        parts = (cls._of_part(features[i : i + STREAM_ROWS]) for i in range(0, len(features), STREAM_ROWS))
        return reduce(cls.merge, parts)

    @classmethod
    def _of_part(cls, features: NDArray[np.floating]) -> Statistics:
        x = features.astype(np.float64)
        mean = x.mean(axis=0)
        centred = x - mean
        return cls(len(x), mean, centred.T @ centred)

    def merge(self, other: Statistics) -> Statistics:
        """Combine the statistics of two sets (Chan, Golub and LeVeque 1979); the order affects only rounding."""
        n = self.n + other.n
        step = other.mean - self.mean
        mean = self.mean + step * (other.n / n)
        return Statistics(n, mean, self.scatter + other.scatter + np.outer(step, step) * (self.n * other.n / n))

    @property
    def covariance(self) -> F8:
        """Unbiased covariance [D,D]. Raises UserError if there are fewer than two images."""
        if self.n < 2:
            raise UserError(f"a covariance needs two images or more (found {self.n})")
        return self.scatter / (self.n - 1)


def check_features(x: NDArray[np.floating], what: str) -> None:
    """Raise UserError if features are not a finite matrix [N,D] of two rows or more; ``what`` names the set."""
    if x.ndim != 2 or not x.shape[1]:
        raise UserError(f"{what}: expected features [N,D], found shape {list(x.shape)}")
    if len(x) < 2:
        raise UserError(f"{what}: a distance between sets needs two images or more (found {len(x)})")
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if len(bad):
        raise UserError(f"{what}: {len(bad)} of {len(x)} rows of features are not finite (first: row {bad[0]})")


def check_pair(a: NDArray[np.floating], b: NDArray[np.floating]) -> None:
    """Raise UserError if two sets of features cannot be compared."""
    check_features(a, "first set")
    check_features(b, "second set")
    _same_dimensions(a.shape[1], b.shape[1])


def frechet_distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Return the squared Fréchet distance of features [N,D] and [M,D] (which papers call FID for Inception features).

    Raises UserError if there are fewer than two images, features that are not finite, or different D.
    """
    check_pair(a, b)
    return _distance(*_mean_and_factor(a), *_mean_and_factor(b))


def frechet_from_statistics(a: Statistics, b: Statistics) -> float:
    """Return the squared Fréchet distance from moments alone, for sets without features.

    Raises UserError if there are fewer than two images, or different D.
    """
    _same_dimensions(len(a.mean), len(b.mean))
    return _distance(a.mean, _square_root(a.covariance), b.mean, _square_root(b.covariance))


def _same_dimensions(a: int, b: int) -> None:
    if a != b:
        raise UserError(f"features of {a} and of {b} dimensions cannot be compared; use one extractor for both sets")


def _mean_and_factor(x: NDArray[np.floating]) -> tuple[F8, F8]:
    """Return mean [D] and F with FᵀF the covariance of features [N,D]; F is [N,D] or [D,D], whichever is smaller."""
    n, dimensions = x.shape
    if n > dimensions:
        statistics = Statistics.of(x)
        return statistics.mean, _square_root(statistics.covariance)
    wide = x.astype(np.float64)
    mean = wide.mean(axis=0)
    return mean, (wide - mean) / np.sqrt(n - 1)


def _square_root(covariance: F8) -> F8:
    """Return the symmetric square root. Eigenvalues that are rounding noise count as 0: their roots are not small."""
    values, vectors = np.linalg.eigh(covariance)
    noise = len(values) * np.finfo(np.float64).eps * max(float(values[-1]), 0.0)
    roots = np.sqrt(np.where(values > noise, values, 0.0))
    root: F8 = (vectors * roots) @ vectors.T
    return root


def _distance(mean_a: F8, factor_a: F8, mean_b: F8, factor_b: F8) -> float:
    cross = np.linalg.svd(factor_a @ factor_b.T, compute_uv=False).sum()
    means = np.square(mean_a - mean_b).sum()
    traces = np.square(factor_a).sum() + np.square(factor_b).sum()
    return max(0.0, float(means + traces - 2 * cross))
