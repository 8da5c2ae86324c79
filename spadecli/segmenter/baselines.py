"""Baselines that a segmenter has to beat: classifiers that ignore what a picture shows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import numpy as np
from numpy.typing import NDArray

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]

COLOR_BINS = 16
PLACE_BINS = 16


class MajorityClass:
    """Predictor the most frequent class of the training pairs at every pixel."""

    def __init__(self, counts: NDArray[np.int64], unknown: int | None) -> None:
        """counts: int64 [K], pixels of each class; the unknown channel is never predicted."""
        known = counts.copy()
        if unknown is not None:
            known[unknown] = -1
        self.channel = int(known.argmax())

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 [N,H,W,3] -> class channels uint8 [N,H,W]."""
        return np.full(images.shape[:3], self.channel, np.uint8)


class ColorAndPosition:
    """Naive Bayes on a pixel's colour and position in the picture, each a smoothed histogram per class.

    log p(c | colour, position) = log p(c) + log p(colour | c) + log p(position | c) + const. ``balance`` weights a
    class by its frequency to the power of -balance, like the segmenter's loss, as rare classes count in mean IoU.
    """

    def __init__(self, num_classes: int, unknown: int | None, balance: float = 0.5) -> None:
        self.num_classes, self.unknown, self.balance = num_classes, unknown, balance
        self._color = np.zeros((num_classes, COLOR_BINS**3))
        self._place = np.zeros((num_classes, PLACE_BINS**2))

    def fit(self, pairs: Iterable[Pair]) -> Self:
        """Fit the histograms to (photo uint8 [H,W,3], channels uint8 [H,W]) pairs."""
        for photo, channels in pairs:
            c = channels.astype(np.int64).ravel()
            for table, bins in ((self._color, _color_bins(photo)), (self._place, _place_bins(channels.shape))):
                width = table.shape[1]
                table[...] += np.bincount(c * width + bins.ravel(), minlength=table.size).reshape(table.shape)
        return self

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 [N,H,W,3] -> class channels uint8 [N,H,W]."""
        counts = self._color.sum(1)
        with np.errstate(divide="ignore"):  # a class that never occurs is never predicted
            prior = (1 - self.balance) * np.log(counts / max(1.0, counts.sum()))
        if self.unknown is not None:
            prior[self.unknown] = -np.inf
        color, place = _log_smoothed(self._color), _log_smoothed(self._place)
        at_place = (place + prior[:, None])[:, _place_bins(images.shape[1:3])]
        return np.stack([(color[:, _color_bins(i)] + at_place).argmax(0).astype(np.uint8) for i in images])


def _log_smoothed(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log of each row's shares; adding 1e-4 of a uniform count keeps empty bins possible."""
    smooth = table + 1e-4 * table.sum(1, keepdims=True) / table.shape[1] + 1e-9
    logs: NDArray[np.float64] = np.log(smooth / smooth.sum(1, keepdims=True))
    return logs


def _color_bins(photo: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the bin of each pixel's colour, int64 [H,W]."""
    q = photo.astype(np.int64) * COLOR_BINS // 256
    return np.asarray((q[..., 0] * COLOR_BINS + q[..., 1]) * COLOR_BINS + q[..., 2])


def _place_bins(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the bin of each pixel's row and column, relative to the picture's size, int64 [H,W]."""
    rows = np.arange(shape[0]) * PLACE_BINS // shape[0]
    columns = np.arange(shape[1]) * PLACE_BINS // shape[1]
    return np.asarray(rows[:, None] * PLACE_BINS + columns[None, :], np.int64)
