"""Kernel distance between two sets of features: the KID of Bińkowski et al. (ICLR 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UserError
from .frechet import F8, check_pair


@dataclass(frozen=True)
class KernelDistance:
    """Mean and standard deviation of the squared MMD over subsets.

    If neither set is larger than a subset, there is a single subset, and the deviation is 0.
    """

    mean: float
    deviation: float
    subsets: int
    subset_size: int


def kernel_distance(
    a: NDArray[np.floating],
    b: NDArray[np.floating],
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> KernelDistance:
    """Compute the KID of features [N,D] and [M,D]: unbiased squared MMD, averaged over random subsets of equal size.

    The kernel is k(x, y) = (x·y / D + 1)³. Subsets are drawn without replacement and have ``subset_size`` images, or as
    many as the smaller set if it has fewer. The estimate is unbiased, so it may be negative.
    Raises UserError if there are fewer than two images, features that are not finite, or different D.
    """
    check_pair(a, b)
    if subset_size < 2 or subsets < 1:
        raise UserError(f"KID needs subsets of two images or more, found {subsets} subsets of {subset_size}")
    size = min(subset_size, len(a), len(b))
    count = 1 if size == len(a) == len(b) else subsets
    random = np.random.RandomState(seed)  # NumPy guarantees its stream, unlike Generator's
    values = [
        squared_mmd(a[random.choice(len(a), size, replace=False)], b[random.choice(len(b), size, replace=False)])
        for _ in range(count)
    ]
    return KernelDistance(float(np.mean(values)), float(np.std(values)), count, size)


def squared_mmd(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Return the unbiased squared MMD of features [N,D] and [M,D], cubic kernel (Gretton et al. 2012, lemma 6)."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    n, m = len(x), len(y)
    xx, yy, xy = _kernel(x, x), _kernel(y, y), _kernel(x, y)
    within = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(within - 2 * xy.mean())


def _kernel(x: F8, y: F8) -> F8:
    k: F8 = (x @ y.T / x.shape[1] + 1) ** 3
    return k
