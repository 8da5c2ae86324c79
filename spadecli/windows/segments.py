"""Distinct windows for training: with the index lists of the backward pass, prepared on the host.

The forward pass gathers rows; the backward pass sums the gradients of all positions that gathered the same row. These
positions depend on the label maps alone, so the data loader lists them (collate.py), and the device neither sorts nor
waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from .find import Windows

Ints = NDArray[np.int64]
LONGEST_PIECE = 512  # rows that one thread sums; longer segments are split into pieces
LARGEST_ROUNDING = 1 << 12


@dataclass(frozen=True)
class Segments:
    """The rows of a matrix that belong to each of n segments, laid out for a parallel sum. All tensors are int32.

    order: the rows, segment by segment. pieces: where each piece of a segment begins in ``order``. firsts: [n] where
    each segment begins in ``pieces``.
    """

    order: Tensor
    pieces: Tensor
    firsts: Tensor

    @classmethod
    def build(cls, order: Ints, starts: Ints) -> Self:
        """Build the segments; ``starts`` [n] is where each begins in ``order``."""
        lengths = np.diff(starts, append=len(order))
        counts = np.maximum(1, -(-lengths // LONGEST_PIECE))
        firsts = np.cumsum(counts) - counts
        number = np.arange(counts.sum()) - np.repeat(firsts, counts)
        pieces = np.repeat(starts, counts) + number * LONGEST_PIECE
        if len(pieces) > len(starts):  # the last segment may have empty pieces
            pieces = np.pad(pieces, (0, _missing(len(pieces), len(order))), constant_values=len(order))
        return cls(*(_int32(a) for a in (order, pieces, firsts)))

    def sum(self, rows: Tensor) -> Tensor:
        """Sum the rows of each segment: [.., C] -> [n, C], in float32 or wider."""
        sums = F.embedding_bag(self.order, rows, self.pieces, mode="sum")
        sums = sums.to(torch.promote_types(rows.dtype, torch.float32))
        if len(self.pieces) == len(self.firsts):
            return sums
        every = torch.arange(len(sums), device=sums.device, dtype=self.firsts.dtype)
        return F.embedding_bag(every, sums, self.firsts, mode="sum")


@dataclass(frozen=True)
class TrainingWindows:
    """Distinct windows (see :class:`.find.Windows`) with the transposed lists of the backward pass. All int32.

    The numbers of patches and windows are rounded up: the last ones may be padding that belongs to no pixel.

    code_rows: [n, k²] the row of the code table for each tap of each patch. For each tap in reading order, the table
        has a row for 0 (outside the map) and one per code.
    windows: [w, k²] the patches in each window, numbered from 1; 0 outside the map.
    window_of_pixel: [M·h·w] the window around each pixel, 0..w-1.
    used_code_rows: the rows of the table that occur in ``code_rows``. places_of_code_row: the positions in
        ``code_rows`` that hold each of these.
    places_of_patch: the positions in ``windows`` that hold each patch. pixels_of_window: the pixels of each window.
    """

    code_rows: Tensor
    windows: Tensor
    window_of_pixel: Tensor
    used_code_rows: Tensor
    places_of_code_row: Segments
    places_of_patch: Segments
    pixels_of_window: Segments

    @classmethod
    def build(cls, found: Windows, num_codes: int) -> Self:
        """Build from the distinct windows of codes 1..num_codes; tensors on the CPU."""
        patches, windows = (t.numpy().astype(np.int64) for t in (found.patches, found.windows))
        window_of_pixel = found.window_of_pixel.numpy().ravel().astype(np.int64)
        pixels, taps = len(window_of_pixel), patches.shape[1]
        code_rows = _rounded(patches + np.arange(taps) * (num_codes + 1), pixels)
        number_of_patches, number_of_windows = len(patches), len(windows)
        windows = _rounded(windows, pixels)
        used, *of_code_row = _members(code_rows.ravel(), taps * (num_codes + 1))
        present, order, starts = _members(windows.ravel(), number_of_patches + 1)
        starts = starts[present > 0]  # windows at the border reach outside: no segment for that
        order, starts = order[starts[0] :], starts - starts[0]
        _, of_pixels, starts_of_windows = _members(window_of_pixel, number_of_windows)
        return cls(
            _int32(code_rows),
            _int32(windows),
            _int32(window_of_pixel),
            _int32(used),
            Segments.build(*of_code_row),
            Segments.build(order, _and_empty(starts, len(code_rows), len(order))),
            Segments.build(of_pixels, _and_empty(starts_of_windows, len(windows), pixels)),
        )

    @property
    def share(self) -> float:
        """Distinct windows as a share of the pixels: the share of the work that remains."""
        return len(self.windows) / len(self.window_of_pixel)

    def tensors(self) -> list[Tensor]:
        """Return all tensors, in the order of :meth:`of_tensors`."""
        segments = (self.places_of_code_row, self.places_of_patch, self.pixels_of_window)
        lists = [t for s in segments for t in (s.order, s.pieces, s.firsts)]
        return [self.code_rows, self.windows, self.window_of_pixel, self.used_code_rows, *lists]

    def to(self, device: torch.device) -> Self:
        """Return the windows on a device."""
        return self.of_tensors([t.to(device) for t in self.tensors()])

    @classmethod
    def of_tensors(cls, tensors: Sequence[Tensor]) -> Self:
        """Invert :meth:`tensors`."""
        code_rows, windows, window_of_pixel, used, *lists = tensors
        segments = (Segments(*lists[i : i + 3]) for i in (0, 3, 6))
        return cls(code_rows, windows, window_of_pixel, used, *segments)


def _missing(number: int, members: int) -> int:
    """Return what rounds ``number`` up. If every batch had new lengths, the device's memory would fragment and grow."""
    return -number % max(1, min(LARGEST_ROUNDING, members // 128))


def _rounded(rows: Ints, pixels: int) -> Ints:
    """Append rows of zeros, which belong to no pixel, up to a round number."""
    return np.pad(rows, ((0, _missing(len(rows), pixels)), (0, 0)))


def _and_empty(starts: Ints, number: int, end: int) -> Ints:
    """Append empty segments up to ``number``."""
    return np.pad(starts, (0, number - len(starts)), constant_values=end)


def _int32(values: Ints) -> Tensor:
    return torch.from_numpy(values.astype(np.int32))


def _members(keys: Ints, bound: int) -> tuple[Ints, Ints, Ints]:
    """Group positions by keys [P] in 0..bound-1: distinct keys, positions sorted by key, where each key begins."""
    bits = len(keys).bit_length()
    assert bound << bits < 1 << 63  # maps of 2^31 pixels or more would not fit on a device anyway
    # sorting (key, position) pairs packed into one integer is several times faster than argsort
    pairs = np.sort((keys << bits) | np.arange(len(keys)))
    order, ascending = pairs & ((1 << bits) - 1), pairs >> bits
    begins = np.ones(len(ascending), bool)
    np.not_equal(ascending[1:], ascending[:-1], out=begins[1:])
    starts = np.flatnonzero(begins)
    return ascending[starts], order, starts
