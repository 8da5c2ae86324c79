"""What scores ask of a segmenter: label maps of pictures, and features for a Fréchet distance."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UserError
from ..core.labelspace import LabelSpace
from .card import SegmenterCard


class LabelSource(Protocol):
    """Where predicted label maps come from: a segmenter, or a folder of them.

    labels: the label space of the predictions. card: what is known of its quality; None for foreign ones.
    """

    name: str
    sha256: str
    labels: LabelSpace
    card: SegmenterCard | None


class Segmenter(LabelSource, Protocol):
    """Predictor the label maps of pictures."""

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 [N,H,W,3] -> class channels uint8 [N,H,W]."""
        ...

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [N,H,W,3] -> float32 [N,D], for a Fréchet distance under this segmenter's own name.

        Raises UserError if its network has no features to give.
        """
        ...


def match_channels(segmenter: LabelSource, labels: LabelSpace) -> NDArray[np.uint8]:
    """Map the segmenter's channels to those of the masks' label space: uint8 [256], K for classes the masks lack.

    Raises UserError, which lists the classes that only one side has; the unknown class of either side may be missing.
    """
    theirs = {c.name: i for i, c in enumerate(segmenter.labels.classes)}
    ours = {c.name: i for i, c in enumerate(labels.classes)}
    missing = [n for n in ours if n not in theirs and n != labels.unknown]
    foreign = [n for n in theirs if n not in ours and n != segmenter.labels.unknown]
    if missing or foreign:
        problems = [f"{n}: in the masks, not in the segmenter" for n in missing]
        problems += [f"{n}: in the segmenter, not in the masks" for n in foreign]
        raise UserError(
            f"{segmenter.name}: predicts other classes ({segmenter.labels.name}) than the masks have ({labels.name})",
            problems=problems,
            hint="give a segmenter of these classes with --segmenter, or map its classes with --mapping FILE",
        )
    table = np.full(256, labels.num_classes, np.uint8)
    for name, channel in theirs.items():
        table[channel] = ours.get(name, labels.num_classes)
    return table
