from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from numpy.typing import NDArray

from spadecli.core.errors import UserError
from spadecli.metrics import frechet
from spadecli.metrics.frechet import Statistics, frechet_distance, frechet_from_statistics

F8 = NDArray[np.float64]


def features(n: int, dimensions: int, seed: int, shift: float = 0.0) -> F8:
    """Correlated features with a spectrum that falls over four decades, as those of networks do."""
    random = np.random.RandomState(seed)
    mix = np.random.RandomState(99).standard_normal((dimensions, dimensions)) / np.sqrt(dimensions)
    scale = np.logspace(0, -4, dimensions)
    return random.standard_normal((n, dimensions)) * scale @ mix + shift


def distance_with_sqrtm(a: F8, b: F8) -> float:
    """The textbook formula. With few images: on the range of the first covariance, where the root exists."""
    s1, s2 = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
    basis = scipy.linalg.orth((a - a.mean(0)).T) if len(a) <= a.shape[1] else np.eye(a.shape[1])
    root = scipy.linalg.sqrtm((basis.T @ s1 @ basis) @ (basis.T @ s2 @ basis))
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * np.trace(root).real)


@pytest.mark.parametrize(
    ("n", "m", "dimensions"),
    [(500, 400, 64), (300, 300, 8), (20, 25, 64), (20, 20, 64), (30, 500, 64), (64, 64, 64), (65, 70, 64), (50, 9, 1)],
)
def test_agrees_with_scipy(n: int, m: int, dimensions: int) -> None:
    a, b = features(n, dimensions, 1), features(m, dimensions, 2, shift=0.1)
    assert frechet_distance(a, b) == pytest.approx(distance_with_sqrtm(*sorted((a, b), key=len)), rel=1e-6)


@pytest.mark.parametrize("n", [10, 64, 200])
def test_identical_sets_have_no_distance(n: int) -> None:
    a = features(n, 64, 3)
    assert frechet_distance(a, a.copy()) < 1e-6 * np.trace(np.cov(a, rowvar=False))
    assert frechet_from_statistics(Statistics.of(a), Statistics.of(a)) < 1e-6 * np.trace(np.cov(a, rowvar=False))


def test_closed_form_of_diagonal_gaussians() -> None:
    one = Statistics(11, np.zeros(3), np.diag([10.0, 40.0, 90.0]))  # deviations 1, 2, 3
    two = Statistics(21, np.array([1.0, 0.0, 2.0]), np.diag([80.0, 80.0, 20.0]))  # deviations 2, 2, 1
    assert frechet_from_statistics(one, two) == pytest.approx(1 + 4 + 1 + 0 + 4, rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(400, 300), (20, 25), (20, 300)])
def test_statistics_and_features_give_one_distance(n: int, m: int) -> None:
    a, b = features(n, 32, 4), features(m, 32, 5, shift=0.2)
    assert frechet_from_statistics(Statistics.of(a), Statistics.of(b)) == pytest.approx(
        frechet_distance(a, b), rel=1e-6
    )


def test_symmetric_and_order_free() -> None:
    a, b = features(30, 50, 6), features(40, 50, 7)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10)
    assert frechet_distance(a[::-1], b) == pytest.approx(frechet_distance(a, b), rel=1e-10)


def test_float32_features_far_from_zero_lose_nothing() -> None:
    a, b = features(300, 16, 8, shift=100).astype(np.float32), features(300, 16, 9, shift=100).astype(np.float32)
    exact = distance_with_sqrtm(a.astype(np.float64), b.astype(np.float64))
    assert frechet_distance(a, b) == pytest.approx(exact, rel=1e-6)


def test_streaming_equals_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    x = features(100, 12, 14, shift=50).astype(np.float32)
    whole = Statistics.of(x)
    monkeypatch.setattr(frechet, "STREAM_ROWS", 7)
    parts = Statistics.of(x)
    assert parts.n == 100
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-13)
    np.testing.assert_allclose(parts.scatter, whole.scatter, rtol=1e-9, atol=1e-11)


def test_merging_equals_one_pass() -> None:
    x = features(101, 12, 10, shift=50)
    merged = Statistics.of(x[:1]).merge(Statistics.of(x[1:40])).merge(Statistics.of(x[40:]))
    assert merged.n == 101
    np.testing.assert_allclose(merged.mean, x.mean(0), rtol=1e-13)
    np.testing.assert_allclose(merged.covariance, np.cov(x, rowvar=False), rtol=1e-9, atol=1e-13)


def test_bad_features_are_named() -> None:
    good, bad = features(10, 4, 11), features(10, 4, 12)
    bad[[3, 7], 1] = np.nan
    with pytest.raises(UserError, match=r"second set: 2 of 10 rows .* \(first: row 3\)"):
        frechet_distance(good, bad)
    with pytest.raises(UserError, match=r"first set: .* two images or more"):
        frechet_distance(good[:1], good)
    with pytest.raises(UserError, match="features of 4 and of 5 dimensions"):
        frechet_distance(good, features(10, 5, 13))
    with pytest.raises(UserError, match="two images or more"):
        frechet_from_statistics(Statistics.of(good[:1]), Statistics.of(good))
