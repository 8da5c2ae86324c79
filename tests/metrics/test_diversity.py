from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from spadecli.core.errors import UserError
from spadecli.metrics.diversity import sample_distances
from spadecli.model.perceptual import PerceptualLoss, squeezenet_layers


def images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (n, 32, 48, 3)).astype(np.uint8)


def squeezenet() -> PerceptualLoss:
    torch.manual_seed(0)
    layers, _ = squeezenet_layers()
    return PerceptualLoss("squeezenet", torch.nn.Sequential(*layers).state_dict())


def test_agrees_with_the_formula_pair_by_pair() -> None:
    network, pictures = squeezenet(), images(4)

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        total = 0.0
        for picture_maps in zip(*(network.maps(as_tensor(p)) for p in (a, b)), strict=True):
            x, y = (m[0].double().numpy() for m in picture_maps)
            x, y = (m / (np.sqrt((m**2).sum(0)) + 1e-10) for m in (x, y))
            total += ((x - y) ** 2).sum(0).mean()
        return total

    def as_tensor(p: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(p).permute(2, 0, 1)[None].float() / 127.5 - 1

    with torch.no_grad():
        expected = [distance(a, b) for a, b in itertools.combinations(pictures, 2)]
    np.testing.assert_allclose(sample_distances(network.maps, pictures), expected, rtol=1e-5)


def test_known_answer() -> None:
    """One tap, the picture itself: unit vectors along different channels are 2 apart, along one channel 0."""
    pictures = np.full((3, 4, 4, 3), 128, np.uint8)
    red, green = np.array([255, 0, 0]), np.array([0, 255, 0])
    pictures[0], pictures[1], pictures[2] = red, green, red // 2
    taps = lambda x: [(x + 1) / 2]  # noqa: E731
    np.testing.assert_allclose(sample_distances(taps, pictures), [2, 0, 2], atol=1e-6)


def test_equal_samples_do_not_differ() -> None:
    same = np.repeat(images(1), 3, axis=0)
    assert (sample_distances(squeezenet().maps, same) == 0).all()


def test_one_sample_is_refused() -> None:
    with pytest.raises(UserError, match="two samples"):
        sample_distances(squeezenet().maps, images(1))
