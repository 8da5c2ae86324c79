"""The distinct label neighbourhoods of a batch of maps.

What two k x k convolutions make of a label map at a pixel depends on the pixel's k x k window of k x k windows
of codes alone. Real maps hold few distinct ones: the work is done once for each of them, then gathered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Ints = NDArray[np.int64]
LONGEST_PIECE = 512  # rows that one thread adds up before another may take over


@dataclass(frozen=True)
class Groups:
    """Which rows of a matrix belong to each of n groups, in the form that a parallel sum wants.

    ``order`` lists the rows group by group; ``pieces`` says where each piece of a group begins in it, and
    ``groups`` [n] where each group begins among the pieces.
    """

    order: Tensor
    pieces: Tensor
    groups: Tensor

    @classmethod
    def build(cls, order: Ints, starts: Ints, device: torch.device) -> Self:
        """``starts`` [n]: where each group begins in ``order``. No group is empty."""
        lengths = np.diff(starts, append=len(order))
        counts = -(-lengths // LONGEST_PIECE)
        groups = np.cumsum(counts) - counts
        number = np.arange(counts.sum()) - np.repeat(groups, counts)
        pieces = np.repeat(starts, counts) + number * LONGEST_PIECE
        return cls(*(torch.from_numpy(a).to(device) for a in (order, pieces, groups)))

    def sum(self, rows: Tensor) -> Tensor:
        """Sum of each group's rows: [.., C] -> [n, C]. Half precision is added up in float32."""
        sums = F.embedding_bag(self.order, rows, self.pieces, mode="sum")
        if len(self.pieces) == len(self.groups):
            return sums
        wide = sums.float() if rows.dtype in (torch.bfloat16, torch.float16) else sums
        every = torch.arange(len(sums), device=sums.device)
        return F.embedding_bag(every, wide, self.groups, mode="sum").to(rows.dtype)


@dataclass(frozen=True)
class Neighbourhoods:
    """The distinct neighbourhoods of M maps of one size, for two convolutions of kernel k.

    codes: [n, k²] codes of each distinct window of codes, in reading order; 0 outside the map.
    windows: [rows, k²] windows of each distinct window of windows: 1..n, 0 outside the map.
    row: [M·h·w] the distinct window of windows around each pixel, 0..rows-1.
    entries_of_window: the entries of ``windows`` that hold each of 1..n. pixels_of_row: the pixels of each row.
    """

    codes: Tensor
    windows: Tensor
    row: Tensor
    entries_of_window: Groups
    pixels_of_row: Groups

    @property
    def share(self) -> float:
        """Distinct neighbourhoods as a share of the pixels: the share of the work that is left."""
        return len(self.windows) / len(self.row)


def find_neighbourhoods(codes: Ints, kernel: int, device: torch.device) -> Neighbourhoods:
    """The neighbourhoods in ``codes`` [M,h,w] (1 and above), compared exactly; tensors on ``device``."""
    ids, order, starts = _number_windows(codes, kernel)
    distinct_codes = _windows_around(codes, order[starts], kernel)
    rows, pixels, row_starts = _number_windows(ids, kernel)
    windows = _windows_around(ids, pixels[row_starts], kernel)
    _, entries, entry_starts = _number(windows.ravel(), len(starts) + 1)
    if kernel > 1:  # windows at the border reach outside: the first group is that of 0
        entries, entry_starts = entries[entry_starts[1] :], entry_starts[1:] - entry_starts[1]
    return Neighbourhoods(
        torch.from_numpy(distinct_codes).to(device),
        torch.from_numpy(windows).to(device),
        torch.from_numpy(rows.ravel() - 1).to(device),
        Groups.build(entries, entry_starts, device),
        Groups.build(pixels, row_starts, device),
    )


def _number_windows(values: Ints, kernel: int) -> tuple[Ints, Ints, Ints]:
    """Number the windows around each pixel of [M,h,w] values (1 and above): see :func:`_number`.

    First the rows of each window are numbered, then the columns of row numbers.
    """
    order = starts = np.empty(0, np.int64)
    for axis in (2, 1):
        length, bound = values.shape[axis], int(values.max()) + 1
        border = [(0, 0)] * 3
        border[axis] = (kernel // 2, kernel // 2)
        padded = np.pad(values, border)
        taps = [padded.take(range(i, i + length), axis).ravel() for i in range(kernel)]
        numbers, order, starts = _number(*_pack(taps, bound))
        values = numbers.reshape(values.shape)
    return values, order, starts


def _pack(taps: list[Ints], bound: int) -> tuple[Ints, int]:
    """One integer for each tuple of values below ``bound``, and a bound of these integers."""
    keys, keys_bound = taps[0], bound
    for tap in taps[1:]:
        if keys_bound * bound > _sortable(len(tap)):
            keys, _, starts = _number(keys, keys_bound)
            keys_bound = len(starts) + 1
        keys, keys_bound = keys * bound + tap, keys_bound * bound
    return keys, keys_bound


def _sortable(size: int) -> int:
    """Keys below this leave room for an index below ``size`` in the same 63 bits."""
    return 1 << (63 - size.bit_length())


def _number(keys: Ints, bound: int) -> tuple[Ints, Ints, Ints]:
    """Number the distinct keys [P] (0 to bound-1) from 1 on, ascending.

    Returns the number of each key, the positions sorted by key, and where each distinct key begins in them.
    """
    if bound <= _sortable(len(keys)):
        # sorting (key, position) pairs packed into one integer is several times faster than argsort
        bits = len(keys).bit_length()
        pairs = np.sort((keys << bits) | np.arange(len(keys)))
        order, ascending = pairs & ((1 << bits) - 1), pairs >> bits
    else:
        order = np.argsort(keys)
        ascending = keys[order]
    begins = np.ones(len(keys), bool)
    np.not_equal(ascending[1:], ascending[:-1], out=begins[1:])
    numbers = np.empty_like(order)
    numbers[order] = np.cumsum(begins)
    return numbers, order, np.flatnonzero(begins)


def _windows_around(values: Ints, pixels: Ints, kernel: int) -> Ints:
    """The k x k windows of values [M,h,w] around the given flat pixels [n], 0 outside: [n, k²]."""
    half = kernel // 2
    padded = np.pad(values, ((0, 0), (half, half), (half, half)))
    m, y, x = np.unravel_index(pixels, values.shape)
    return np.stack([padded[m, y + dy, x + dx] for dy in range(kernel) for dx in range(kernel)], 1)
