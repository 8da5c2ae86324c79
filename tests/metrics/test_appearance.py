"""Figures without a network: against sums by hand, and against blur, grey and sameness."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from spadecli.metrics.appearance import OCTAVES, appearance, octave_energy, octave_names


def waves(period: float, size: tuple[int, int] = (96, 128)) -> np.ndarray:
    """A picture of waves from left to right; their variance is 1/2."""
    return np.tile(np.sin(2 * np.pi * np.arange(size[1]) / period), (size[0], 1))


def noise(count: int = 6) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    light = random.uniform(60, 190, (count, 1, 1, 3))
    return list((light + random.normal(0, 25, (count, 48, 64, 3))).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(("period", "octave"), [(2.7, 0), (5, 1), (12, 2), (24, 3)])
def test_waves_are_in_their_octave_with_their_variance(period, octave):
    energy = octave_energy(waves(period))
    assert energy[octave] == pytest.approx(0.5, rel=0.08)
    assert np.delete(energy, octave).max() < 0.04
    assert energy == pytest.approx(octave_energy(waves(period).T), rel=0.1)


def test_what_is_coarser_or_constant_is_in_none():
    assert octave_energy(waves(128)).max() < 1e-3
    assert octave_energy(np.full((32, 32), 70.0)).max() < 1e-20
    assert len(octave_names()) == OCTAVES
    assert octave_names()[0] == "1/4 to 1/2 cycle a pixel"


def test_energies_of_white_noise_are_its_variance():
    light = np.random.default_rng(1).normal(50, 3, (64, 64))
    rest = (np.hypot(*np.meshgrid(*[np.fft.fftfreq(64)] * 2)) <= 1 / 32).mean()
    assert octave_energy(light).sum() == pytest.approx(9 * (1 - rest), rel=0.1)


def test_light_and_colours_by_hand():
    black, white, red = (np.full((8, 8, 3), rgb, np.uint8) for rgb in ((0, 0, 0), (255, 255, 255), (255, 0, 0)))
    found = appearance([np.concatenate([black, white]), np.concatenate([red, red])])
    assert found.pictures == 2
    assert found.contrast == pytest.approx((50 + 0) / 2, abs=0.01)
    assert (found.dark, found.bright) == pytest.approx((0, 100), abs=0.11)
    assert found.colour_spread == pytest.approx(np.hypot(80.09, 67.20) / 2, abs=0.1)  # red is far from grey
    with pytest.raises(ValueError, match="no pictures"):
        appearance([])


def test_blur_grey_and_sameness_show():
    sharp = noise()
    own = appearance(sharp)
    blurred = [np.asarray(Image.fromarray(p).filter(ImageFilter.GaussianBlur(1))) for p in sharp]
    assert appearance(blurred).energy[0] < 0.1 * own.energy[0]
    weak = [(0.5 * p + 64).astype(np.uint8) for p in sharp]
    assert appearance(weak).contrast < 0.7 * own.contrast
    assert appearance(weak).dark > own.dark + 5
    assert appearance(sharp[:1] * 6).colour_spread < 1e-9 < own.colour_spread
