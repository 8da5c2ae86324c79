"""How a segmenter and its baselines do on pairs that they have not seen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..metrics.confusion import Agreement, agreement, confusion_matrix
from .baselines import Pair


class Predicts(Protocol):
    """Anything that answers with label maps."""

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 [N,H,W,3] -> class channels uint8 [N,H,W]."""
        ...


def agreement_on(predictor: Predicts, pairs: Iterable[Pair], num_classes: int, unknown: int | None) -> Agreement:
    """Agreement with (photo uint8 [H,W,3], channels uint8 [H,W]) pairs; pixels of ``unknown`` are left out."""
    total = np.zeros((num_classes, num_classes + 1), np.int64)
    for photo, channels in pairs:
        (predicted,) = predictor.predict(photo[None])
        total += confusion_matrix(channels, predicted, num_classes, unknown)
    return agreement(total, unknown)
