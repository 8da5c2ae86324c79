from __future__ import annotations

import itertools

import numpy as np
import pytest

from spadecli.core.errors import UserError
from spadecli.metrics.kernel import kernel_distance, squared_mmd


def features(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.RandomState(seed).standard_normal((n, 6)) + shift


def test_squared_mmd_is_the_sum_over_pairs() -> None:
    x, y = features(5, 1), features(4, 2, 0.5)

    def k(p: np.ndarray, q: np.ndarray) -> float:
        return float((sum(a * b for a, b in zip(p, q, strict=True)) / 6 + 1) ** 3)

    within_x = np.mean([k(p, q) for p, q in itertools.permutations(x, 2)])
    within_y = np.mean([k(p, q) for p, q in itertools.permutations(y, 2)])
    across = np.mean([k(p, q) for p in x for q in y])
    assert squared_mmd(x, y) == pytest.approx(within_x + within_y - 2 * across, rel=1e-12)


def test_unbiased_around_zero_for_one_distribution() -> None:
    values = [squared_mmd(features(30, s), features(30, 1000 + s)) for s in range(200)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))
    assert min(values) < 0 < max(values)


def test_whole_sets_of_equal_size_are_one_subset() -> None:
    x, y = features(40, 3), features(40, 4, 1.0)
    result = kernel_distance(x, y)
    assert (result.subsets, result.subset_size, result.deviation) == (1, 40, 0.0)
    assert result.mean == pytest.approx(squared_mmd(x, y), rel=1e-12)


def test_subsets_are_seeded() -> None:
    x, y = features(60, 5), features(80, 6, 1.0)
    first = kernel_distance(x, y, subsets=20, subset_size=25, seed=3)
    assert first == kernel_distance(x, y, subsets=20, subset_size=25, seed=3)
    assert first != kernel_distance(x, y, subsets=20, subset_size=25, seed=4)
    assert first.deviation > 0
    assert first.mean == pytest.approx(squared_mmd(x, y), rel=0.2)


def test_bad_input() -> None:
    x = features(10, 7)
    with pytest.raises(UserError, match="two images or more"):
        kernel_distance(x, x[:1])
    with pytest.raises(UserError, match="not finite"):
        kernel_distance(x, np.full_like(x, np.inf))
    with pytest.raises(UserError, match="6 and of 5 dimensions"):
        kernel_distance(x, x[:, :5])
    with pytest.raises(UserError, match="20 subsets of 1"):
        kernel_distance(x, x, subsets=20, subset_size=1)
