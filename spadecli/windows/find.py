"""The distinct label windows of a batch of maps: what SPADE's two convolutions can see at a pixel.

A k x k convolution of a k x k convolution of the map depends at a pixel on its window of windows of codes alone.
Real maps hold few distinct ones. One pass per resolution serves every SPADE layer there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..kernels import native

Ints = NDArray[np.int32]
# share of pixels that differ from the next one, from which on windows repeat too seldom to look for that; where it
# takes no time there is a gain longer
NOISE, NOISE_IN_SMALL = 0.2, 0.5
SMALL = 1 << 12  # pixels


@dataclass(frozen=True)
class Windows:
    """The distinct windows of M maps of one size, for two convolutions of kernel k; all int32.

    In maps of noise they are those of every pixel, and may repeat.

    codes: [n, k²] the codes of each distinct window, in reading order; 0 outside the map.
    windows: [rows, k²] the windows in each distinct window of windows: 1..n, 0 outside the map.
    row: [M,h,w] which of these is around each pixel, 0..rows-1.
    every: whether they are every pixel's, in reading order.
    """

    codes: Tensor
    windows: Tensor
    row: Tensor
    every: bool = False

    @cached_property
    def pixel(self) -> Tensor:
        """A pixel, the same one each time, that each of the windows of windows is around: [rows], in flat order."""
        flat = self.row.flatten()
        number = torch.arange(len(flat) - 1, -1, -1, device=flat.device)
        return torch.zeros(len(self.windows), dtype=torch.int64, device=flat.device).scatter_reduce_(
            0, flat.flip(0).long(), number, "amin", include_self=False
        )

    def to(self, device: torch.device) -> Windows:
        """The same on another device; from pinned memory the copy overlaps with what runs there."""
        if device.type == "cpu":
            return self
        codes, windows, row = (
            t.pin_memory().to(device, non_blocking=True) for t in (self.codes, self.windows, self.row)
        )
        return Windows(codes, windows, row, self.every)


def map_codes(channels: Ints, edges: NDArray[np.uint8] | None) -> Ints:
    """Codes of class channels [..]: channel + 1, or 2·channel + edge + 1 where there is an edge plane."""
    return channels + 1 if edges is None else 2 * channels + edges + 1


def find_windows(codes: Ints, kernel: int) -> Windows:
    """Windows of codes int32 [M,h,w], 1 and above."""
    codes = np.ascontiguousarray(codes, np.int32)
    every = _changes(codes) > (NOISE if codes.size > SMALL else NOISE_IN_SMALL)
    if every:
        numbers = np.arange(codes.size, dtype=np.int32)
        found, row = _windows_at(codes, numbers, kernel), numbers.reshape(codes.shape)
        windows = _windows_at(row + 1, numbers, kernel)
    elif native.available():
        found, windows, row = native.find_windows(codes, kernel)
    else:
        ids, firsts = _number_windows(codes, kernel)
        found = _windows_at(codes, firsts, kernel)
        row, firsts = _number_windows(ids, kernel)
        windows, row = _windows_at(ids, firsts, kernel), row - 1
    return Windows(torch.from_numpy(found), torch.from_numpy(windows), torch.from_numpy(row), every)


def _changes(codes: Ints) -> float:
    """The share of pixels that differ from the next one, across or down, whichever is larger."""
    shares = [(codes[:, :, 1:] != codes[:, :, :-1]), (codes[:, 1:] != codes[:, :-1])]
    return max(float(s.mean()) if s.size else 0.0 for s in shares)


def _number_windows(values: Ints, kernel: int) -> tuple[Ints, NDArray[np.int64]]:
    """The distinct windows of values [M,h,w] numbered from 1 on, at each pixel, and a pixel where each is found.

    The rows of each window are numbered first, then the columns of row numbers.
    """
    firsts = np.empty(0, np.int64)
    for axis in (2, 1):
        length = values.shape[axis]
        border = [(0, 0)] * 3
        border[axis] = (kernel // 2, kernel // 2)
        padded = np.pad(values, border).astype(np.int64)
        keys, bound = np.zeros(values.shape, np.int64), 1
        step = int(values.max()) + 1
        for i in range(kernel):
            if bound * step >= 1 << 62:
                keys = np.unique(keys, return_inverse=True)[1].reshape(values.shape)
                bound = int(keys.max()) + 1
            keys = keys * step + padded.take(range(i, i + length), axis)
            bound *= step
        _, firsts, numbers = np.unique(keys, return_index=True, return_inverse=True)
        values = (numbers.reshape(values.shape) + 1).astype(np.int32)
    return values, firsts


def _windows_at(values: Ints, pixels: NDArray[np.integer], kernel: int) -> Ints:
    """The k x k windows of values [M,h,w] around flat pixels [n], 0 outside: [n, k²]."""
    half = kernel // 2
    padded = np.pad(values, ((0, 0), (half, half), (half, half)))
    m, y, x = np.unravel_index(pixels, values.shape)
    return np.stack([padded[m, y + dy, x + dx] for dy in range(kernel) for dx in range(kernel)], 1)
