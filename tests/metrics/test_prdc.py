from __future__ import annotations

import numpy as np
import pytest

from spadecli.core.errors import UserError
from spadecli.metrics import prdc as module
from spadecli.metrics.prdc import prdc


def features(n: int, seed: int, shift: float = 0.0, dimensions: int = 4) -> np.ndarray:
    return np.random.RandomState(seed).standard_normal((n, dimensions)) + shift


def brute_force(fake: np.ndarray, real: np.ndarray, k: int, wide: int) -> dict[str, float]:
    """The papers' definitions, picture by picture."""

    def radius(points: np.ndarray, i: int, neighbours: int) -> float:
        return sorted(np.linalg.norm(points[i] - points[j]) for j in range(len(points)) if j != i)[neighbours - 1]

    def inside(point: np.ndarray, points: np.ndarray, i: int, neighbours: int) -> bool:
        return bool(np.linalg.norm(point - points[i]) <= radius(points, i, neighbours))

    return {
        "precision": np.mean([any(inside(f, real, i, k) for i in range(len(real))) for f in fake]),
        "recall": np.mean([any(inside(r, fake, i, k) for i in range(len(fake))) for r in real]),
        "density": sum(inside(f, real, i, wide) for f in fake for i in range(len(real))) / (wide * len(fake)),
        "coverage": np.mean([any(inside(f, real, i, wide) for f in fake) for i in range(len(real))]),
    }


@pytest.mark.parametrize(("n", "m", "shift"), [(25, 30, 0.8), (30, 20, 0.0), (12, 12, 3.0)])
def test_agrees_with_the_definitions(n: int, m: int, shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    fake, real = features(n, 1, shift), features(m, 2)
    monkeypatch.setattr(module, "BLOCK_ROWS", 7)
    result = prdc(fake, real, precision_recall_neighbours=3, density_coverage_neighbours=5)
    for name, value in brute_force(fake, real, 3, 5).items():
        assert getattr(result, name) == pytest.approx(value, rel=1e-12), name


def test_identical_sets_and_far_ones() -> None:
    x = features(40, 3)
    same = prdc(x, x.copy())
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    assert same.density == pytest.approx(6 / 5)  # its k neighbours and itself
    far = prdc(x + 1000, x)
    assert (far.precision, far.recall, far.density, far.coverage) == (0, 0, 0, 0)


def test_a_single_mode_is_precise_and_covers_little() -> None:
    real = features(100, 4)
    result = prdc(real[:1] + 1e-3 * features(100, 5), real)
    assert result.precision == 1
    assert result.recall < 0.05
    assert result.coverage < 0.3


def test_far_from_zero_in_float32() -> None:
    fake, real = features(30, 6, 0.5), features(30, 7)
    shifted = [(x + 1000).astype(np.float32) for x in (fake, real)]
    assert prdc(*shifted) == prdc(*[x.astype(np.float64) - 1000 for x in shifted])


def test_bad_input() -> None:
    x = features(20, 8)
    with pytest.raises(UserError, match="more than 5 pictures"):
        prdc(x[:5], x)
    with pytest.raises(UserError, match="not finite"):
        prdc(np.full_like(x, np.nan), x)
