"""What the scores ask of a segmenter: label maps from pictures, and features for a Fréchet distance."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..core.labelspace import LabelSpace


class Segmenter(Protocol):
    """Predicts label maps of a label space."""

    name: str
    sha256: str
    labels: LabelSpace  # of its predictions

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 [N,H,W,3] -> class channels uint8 [N,H,W]."""
        ...

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [N,H,W,3] -> float32 [N,D], for a Fréchet distance under this segmenter's own name."""
        ...
