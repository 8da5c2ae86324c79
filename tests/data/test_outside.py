"""Wedges that rectification leaves at the border of a photograph."""

import numpy as np

from spadecli.data.outside import find_outside

RNG = np.random.default_rng(0)


def photograph(height: int = 60, width: int = 80) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


def wedge(photo: np.ndarray, color) -> np.ndarray:
    """Cover the upper left corner, as JPEG would: values differ a little."""
    y, x = np.indices(photo.shape[:2])
    corner = 2 * y + x < 40
    photo[corner] = np.clip(np.array(color) + RNG.integers(-1, 2, (corner.sum(), 1)), 0, 255)
    return corner


def test_black_and_grey_wedges_are_found():
    for color in ((0, 0, 0), (127, 127, 127)):
        photo = photograph()
        corner = wedge(photo, color)
        found = find_outside(photo)
        assert (found & corner).sum() > 0.95 * corner.sum()
        assert (found & ~corner).sum() < 0.05 * corner.sum()


def test_skies_walls_and_flat_areas_inside_are_not():
    for color in ((235, 238, 240), (200, 120, 90)):  # an overcast sky, a wall
        photo = photograph()
        wedge(photo, color)
        assert not find_outside(photo).any()
    photo = photograph()
    photo[20:40, 20:40] = 0
    assert not find_outside(photo).any()
    assert not find_outside(photograph()).any()
