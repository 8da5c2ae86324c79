"""Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020) of two sets of features.

All four count pictures in neighbourhoods: the neighbourhood of a picture is the ball around its features with the
distance to its k-th nearest neighbour in its own set as radius.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UserError
from .frechet import F8, check_pair

PRECISION_RECALL_NEIGHBOURS = 3  # the papers' own defaults
DENSITY_COVERAGE_NEIGHBOURS = 5
BLOCK_ROWS = 1024


@dataclass(frozen=True)
class Prdc:
    """Precision, recall and coverage in 0..1; density >= 0, with an expectation of 1 for sets of one distribution.

    precision: share of the fakes in any real picture's neighbourhood. recall: share of the real pictures in any fake's.
    density: mean number of real neighbourhoods that a fake lies in, divided by k. coverage: share of the real pictures
    with a fake in their neighbourhood.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(
    fake: NDArray[np.floating],
    real: NDArray[np.floating],
    *,
    precision_recall_neighbours: int = PRECISION_RECALL_NEIGHBOURS,
    density_coverage_neighbours: int = DENSITY_COVERAGE_NEIGHBOURS,
) -> Prdc:
    """Compute all four from features [N,D] of fakes and [M,D] of real pictures, in float64.

    Raises UserError if the features cannot be compared, or a set has no more pictures than neighbours.
    """
    check_pair(fake, real)
    needed = max(precision_recall_neighbours, density_coverage_neighbours)
    if min(len(fake), len(real)) <= needed:
        raise UserError(f"precision and recall need more than {needed} pictures in either set")
    centre = real.mean(axis=0, dtype=np.float64)  # centred, as differences of large numbers lose digits
    x, y = fake.astype(np.float64) - centre, real.astype(np.float64) - centre
    fake_near = _radii(x, (precision_recall_neighbours,))[0]
    real_near, real_wide = _radii(y, (precision_recall_neighbours, density_coverage_neighbours))
    in_real, in_fake = np.zeros(len(x), bool), np.zeros(len(y), bool)
    neighbourhoods, nearest = 0, np.full(len(y), np.inf)
    for start in range(0, len(x), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        distance = _squared_distances(x[rows], y)
        in_real[rows] = (distance <= real_near).any(axis=1)
        in_fake |= (distance <= fake_near[rows, None]).any(axis=0)
        neighbourhoods += int((distance <= real_wide).sum())
        nearest = np.minimum(nearest, distance.min(axis=0))
    return Prdc(
        precision=float(in_real.mean()),
        recall=float(in_fake.mean()),
        density=neighbourhoods / (density_coverage_neighbours * len(x)),
        coverage=float((nearest <= real_wide).mean()),
    )


def _radii(x: F8, neighbours: tuple[int, ...]) -> list[F8]:
    """Return the squared distance [N] of each row to its k-th nearest other row, for each k in ``neighbours``."""
    radii = [np.empty(len(x)) for _ in neighbours]
    for start in range(0, len(x), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        distance = _squared_distances(x[rows], x)
        own = np.arange(len(distance))
        distance[own, own + start] = -1.0  # a row is its own nearest, despite rounding
        distance = np.partition(distance, neighbours, axis=1)
        for radius, k in zip(radii, neighbours, strict=True):
            radius[rows] = distance[:, k]
    return radii


def _squared_distances(x: F8, y: F8) -> F8:
    square: F8 = np.square(x).sum(axis=1)[:, None] + np.square(y).sum(axis=1)[None] - 2 * (x @ y.T)
    return np.maximum(square, 0.0, out=square)
