"""Agreement of predicted label maps with given ones: confusion matrix, IoU, accuracy.

A confusion matrix is int64 [K,K+1]: rows are the given classes, columns the predicted ones, and the last column counts
predictions outside the K classes. Pixels of the ignored class are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UserError

I8 = NDArray[np.int64]
F8 = NDArray[np.float64]
Absent = Literal["left-out", "if-predicted", "zero"]

ABSENT_WORDS: dict[Absent, str] = {
    "left-out": "classes without a pixel in the masks are left out of the mean",
    "if-predicted": "classes without a pixel in the masks count as 0 where they are predicted, else are left out",
    "zero": "classes without a pixel in the masks count as 0",
}


@dataclass(frozen=True)
class Agreement:
    """Scores of a confusion matrix: fractions in 0..1, NaN if undefined.

    class_iou, class_accuracy: [K]; a class without pixels in the masks has no accuracy, and an IoU (of 0) only if it is
    predicted. counted: [K], whether a class is included in the mean IoU.
    """

    mean_iou: float
    accuracy: float
    frequency_weighted_iou: float
    class_iou: F8
    class_accuracy: F8
    counted: NDArray[np.bool_]


def confusion_matrix(
    truth: NDArray[np.integer], predicted: NDArray[np.integer], num_classes: int, ignore: int | None = None
) -> I8:
    """Return the confusion matrix int64 [K,K+1] of two label maps of channels; K in ``predicted`` means none.

    Raises UserError if shapes differ or values are out of range.
    """
    if truth.shape != predicted.shape:
        raise UserError(f"label maps of {list(truth.shape)} and {list(predicted.shape)} cannot be compared")
    if truth.size and (int(truth.max()) >= num_classes or int(predicted.max()) > num_classes):
        found = max(int(truth.max()), int(predicted.max()))
        raise UserError(f"channel {found} in a label map of {num_classes} classes")
    cells = truth.astype(np.int64).ravel() * (num_classes + 1) + predicted.ravel()
    if ignore is not None:
        cells = cells[truth.ravel() != ignore]
    return np.bincount(cells, minlength=num_classes * (num_classes + 1)).reshape(num_classes, -1).astype(np.int64)


def intersection_and_union(matrix: I8) -> tuple[I8, I8]:
    """Return the intersection and union of truth and prediction in pixels, [K] each."""
    shared = np.diagonal(matrix).copy()
    return shared, matrix.sum(axis=1) + matrix.sum(axis=0)[:-1] - shared


def agreement(matrix: I8, ignore: int | None = None, absent: Absent = "left-out") -> Agreement:
    """Compute mean IoU, pixel accuracy, frequency-weighted IoU and the per-class values of a confusion matrix.

    IoU = TP / (TP + FP + FN); the frequency of a class is its share of the given pixels (Long et al. 2015).
    ``absent``: how classes without given pixels count (see ABSENT_WORDS); the ignored class is never counted.
    """
    shared, union = intersection_and_union(matrix)
    given = matrix.sum(axis=1)
    iou, accuracy = _ratio(shared, union), _ratio(shared, given)
    counted = {"left-out": given > 0, "if-predicted": union > 0, "zero": np.ones(len(given), bool)}[absent]
    if ignore is not None:
        counted = counted & (np.arange(len(given)) != ignore)
    present = given > 0
    return Agreement(
        mean_iou=float(np.nan_to_num(iou[counted]).mean()) if counted.any() else float("nan"),
        accuracy=float(shared.sum() / given.sum()) if given.any() else float("nan"),
        frequency_weighted_iou=float((iou[present] * given[present]).sum() / given.sum())
        if present.any()
        else float("nan"),
        class_iou=iou,
        class_accuracy=accuracy,
        counted=counted,
    )


def image_mean_iou(intersection: I8, union: I8, present: NDArray[np.bool_]) -> F8:
    """Return the mean IoU [N] of single images over the classes in their masks; all arguments are [N,K]."""
    iou = np.where(present, _ratio(intersection, union), 0.0)
    count = present.sum(axis=1)
    return _ratio(iou.sum(axis=1), count)


def _ratio(a: NDArray[np.number], b: I8) -> F8:
    ratio: F8 = np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0, dtype=np.float64)
    return ratio
