"""How often each class of a label space occurs in a set of masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.labelspace import LabelSpace


@dataclass(frozen=True)
class ClassCount:
    """Number of pixels of a class in all masks, and number of masks with any."""

    name: str
    pixels: int
    images: int


def code_counts(codes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count the pixels of each label code: int64 [256]."""
    return np.bincount(codes.ravel(), minlength=256)


class ClassCounter:
    """Accumulates the :func:`code_counts` of masks."""

    def __init__(self, labels: LabelSpace) -> None:
        self._labels = labels
        self._pixels = np.zeros(labels.num_classes, np.int64)
        self._images = np.zeros(labels.num_classes, np.int64)

    def add(self, counts: NDArray[np.int64]) -> None:
        """Add one mask, given its pixels of each label code: int64 [256]."""
        channels = self._labels.code_to_channel
        known = channels >= 0
        pixels = np.bincount(channels[known], weights=counts[known], minlength=len(self._pixels)).astype(np.int64)
        self._pixels += pixels
        self._images += pixels > 0

    def result(self) -> tuple[ClassCount, ...]:
        """Return one row per class, in the order of the label space."""
        rows = zip(self._labels.classes, self._pixels, self._images, strict=True)
        return tuple(ClassCount(c.name, int(pixels), int(images)) for c, pixels, images in rows)
