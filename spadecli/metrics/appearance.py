"""What pictures are like at a glance: sharpness by octave, light, contrast, colours. No network, no training.

A network's features forgive blur and grey; these figures do not. They are of CIE L*a*b* colours (D65).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .color import lab

OCTAVES = 4  # bands of the spectrum, from half a cycle a pixel down to a thirty-second
DARK, BRIGHT = 1, 99  # percentiles of L*
_BINS = 1000  # of L*, 0.1 each


@dataclass(frozen=True)
class Appearance:
    """Figures of a set of pictures.

    energy: variance of L* within each octave, the finest first; "finest" holds the corners of the spectrum too.
    contrast: standard deviation of L* inside a picture, mean over pictures. dark, bright: percentiles 1 and 99 of L*
    over all pixels. colour_spread: root mean square distance of the pictures' mean a*, b* from that of the set.
    """

    pictures: int
    energy: tuple[float, ...]
    contrast: float
    dark: float
    bright: float
    colour_spread: float


def octave_names() -> list[str]:
    """The bands as "1/4 to 1/2 cycle a pixel", the finest first."""
    return [f"1/{2 ** (i + 2)} to 1/{2 ** (i + 1)} cycle a pixel" for i in range(OCTAVES)]


def appearance(pictures: Iterable[NDArray[np.uint8]]) -> Appearance:
    """Measure pictures, uint8 sRGB [H,W,3], of any sizes. Raises ValueError if there are none."""
    energy, contrasts, colours, histogram = [], [], [], np.zeros(_BINS, np.int64)
    for picture in pictures:
        colour = lab(picture)
        light = colour[..., 0]
        energy.append(octave_energy(light))
        contrasts.append(light.std())
        colours.append(colour[..., 1:].mean((0, 1)))
        histogram += np.histogram(light.clip(0, 100), _BINS, (0, 100))[0]
    if not energy:
        raise ValueError("no pictures")
    below = histogram.cumsum() / histogram.sum()
    dark, bright = (float(np.searchsorted(below, p / 100) * 100 / _BINS) for p in (DARK, BRIGHT))
    return Appearance(
        len(energy),
        tuple(float(e) for e in np.mean(energy, axis=0)),
        float(np.mean(contrasts)),
        dark,
        bright,
        float(np.sqrt(np.var(colours, axis=0).sum())),
    )


def octave_energy(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """Variance of a picture [H,W] within each of OCTAVES bands of radial frequency, the finest first.

    The edges are faded out (Hann window), so that left and right edges that differ are no detail.
    """
    height, width = light.shape
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])
    mean = (light * window).sum() / window.sum()
    power = np.abs(np.fft.fft2((light - mean) * window)) ** 2 / (light.size * (window**2).sum())
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    edges = [1.0, *(0.5**i for i in range(2, OCTAVES + 2))]
    return np.array([power[(low < radius) & (radius <= high)].sum() for high, low in pairwise(edges)])
