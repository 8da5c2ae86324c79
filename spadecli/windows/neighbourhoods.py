"""The distinct label neighbourhoods of a batch of maps.

What two k x k convolutions make of a label map at a pixel depends on the pixel's k x k window of k x k windows
of codes alone. Real maps hold few distinct ones: the work is done once for each of them, then gathered.
Everything here is numpy on the host; the tensors go to a device in one copy (see tables.py).
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

Ints = NDArray[np.int64]
LONGEST_PIECE = 512  # rows that one thread adds up before another may take over
LARGEST_ROUNDING = 1 << 12


@dataclass(frozen=True)
class Groups:
    """Which rows of a matrix belong to each of n groups, in the form that a parallel sum wants. All int32.

    ``order`` lists the rows group by group; ``pieces`` says where each piece of a group begins in it, and
    ``groups`` [n] where each group begins among the pieces.
    """

    order: Tensor
    pieces: Tensor
    groups: Tensor

    @classmethod
    def build(cls, order: Ints, starts: Ints) -> Self:
        """``starts`` [n]: where each group begins in ``order``."""
        lengths = np.diff(starts, append=len(order))
        counts = np.maximum(1, -(-lengths // LONGEST_PIECE))
        groups = np.cumsum(counts) - counts
        number = np.arange(counts.sum()) - np.repeat(groups, counts)
        pieces = np.repeat(starts, counts) + number * LONGEST_PIECE
        if len(pieces) > len(starts):  # the last group may have empty pieces
            pieces = np.pad(pieces, (0, _missing(len(pieces), len(order))), constant_values=len(order))
        return cls(*(_int32(a) for a in (order, pieces, groups)))

    def sum(self, rows: Tensor) -> Tensor:
        """Sum of each group's rows: [.., C] -> [n, C], half precision to float32."""
        sums = F.embedding_bag(self.order, rows, self.pieces, mode="sum")
        sums = sums.to(torch.promote_types(rows.dtype, torch.float32))
        if len(self.pieces) == len(self.groups):
            return sums
        every = torch.arange(len(sums), device=sums.device, dtype=self.groups.dtype)
        return F.embedding_bag(every, sums, self.groups, mode="sum")


@dataclass(frozen=True)
class Neighbourhoods:
    """The distinct neighbourhoods of M maps of one size, for two convolutions of kernel k. All int32.

    Both n and rows are rounded up: some of the last are made up, and belong to no pixel.

    entries: [n, k²] which row of the table of codes each tap of each distinct window of codes adds, where the
        table holds, for each tap in reading order, a row for 0 (outside the map) and one for each code.
    windows: [rows, k²] windows of each distinct window of windows: 1..n, 0 outside the map.
    row: [M·h·w] the distinct window of windows around each pixel, 0..rows-1.
    used: the rows of the table that are used at all. places_of_used: the places in ``entries`` that hold each.
    places_of_window: the places in ``windows`` that hold each of 1..n. pixels_of_row: the pixels of each row.
    """

    entries: Tensor
    windows: Tensor
    row: Tensor
    used: Tensor
    places_of_used: Groups
    places_of_window: Groups
    pixels_of_row: Groups

    @property
    def share(self) -> float:
        """Distinct neighbourhoods as a share of the pixels: the share of the work that is left."""
        return len(self.windows) / len(self.row)

    def tensors(self) -> list[Tensor]:
        """All tensors, in the order that :meth:`of_tensors` takes."""
        groups = (self.places_of_used, self.places_of_window, self.pixels_of_row)
        lists = [t for g in groups for t in (g.order, g.pieces, g.groups)]
        return [self.entries, self.windows, self.row, self.used, *lists]

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        return self.of_tensors([t.to(device) for t in self.tensors()])

    @classmethod
    def of_tensors(cls, tensors: Sequence[Tensor]) -> Self:
        """The inverse of :meth:`tensors`."""
        entries, windows, row, used, *lists = tensors
        return cls(entries, windows, row, used, Groups(*lists[:3]), Groups(*lists[3:6]), Groups(*lists[6:]))


def find_neighbourhoods(codes: Ints, kernel: int, num_codes: int) -> Neighbourhoods:
    """The neighbourhoods in ``codes`` [M,h,w] of 1..num_codes, compared exactly; tensors on the CPU."""
    ids, number = _number_windows(codes, kernel)
    entries = _windows_around(codes, _one_of_each(ids, number), kernel)
    entries += np.arange(kernel * kernel) * (num_codes + 1)
    entries = _rounded(entries, codes.size)
    rows, number_of_rows = _number_windows(ids, kernel)
    windows = _windows_around(ids, _one_of_each(rows, number_of_rows), kernel)
    windows = _rounded(windows, codes.size)
    used, *of_used = _members(entries.ravel(), kernel * kernel * (num_codes + 1))
    of_window = _members(windows.ravel(), number + 1)
    keep = of_window[0] > 0  # windows at the border reach outside: no group for that
    order, starts = of_window[1], of_window[2][keep]
    order, starts = order[starts[0] :], starts - starts[0]
    _, pixels, starts_of_rows = _members(rows.ravel(), number_of_rows + 1)
    return Neighbourhoods(
        _int32(entries),
        _int32(windows),
        _int32(rows.ravel() - 1),
        _int32(used),
        Groups.build(*of_used),
        Groups.build(order, _and_empty(starts, len(entries), len(order))),
        Groups.build(pixels, _and_empty(starts_of_rows, len(windows), len(pixels))),
    )


def _missing(number: int, members: int) -> int:
    """What ``number`` lacks to a round one. With lengths new in each batch memory would fragment, and grow."""
    return -number % max(1, min(LARGEST_ROUNDING, members // 128))


def _rounded(rows: Ints, pixels: int) -> Ints:
    """Rows of zeros added, which no pixel has."""
    return np.pad(rows, ((0, _missing(len(rows), pixels)), (0, 0)))


def _and_empty(starts: Ints, number: int, end: int) -> Ints:
    """Empty groups added up to ``number``."""
    return np.pad(starts, (0, number - len(starts)), constant_values=end)


def _int32(values: Ints) -> Tensor:
    return torch.from_numpy(values.astype(np.int32))


def _number_windows(values: Ints, kernel: int) -> tuple[Ints, int]:
    """Number the distinct windows around the pixels of [M,h,w] values (1 and above).

    First the rows of each window are numbered, then the columns of row numbers. Returns the number of each pixel's
    window, 1 and above, and how many there are.
    """
    for axis in (2, 1):
        length, bound = values.shape[axis], int(values.max()) + 1
        border = [(0, 0)] * 3
        border[axis] = (kernel // 2, kernel // 2)
        padded = np.pad(values, border)
        taps = [padded.take(range(i, i + length), axis).ravel() for i in range(kernel)]
        # windows of one value, most of a real map, are numbered by it; the others are sorted
        mixed = np.zeros(values.size, bool)
        for tap in taps[1:]:
            mixed |= tap != taps[0]
        where = np.flatnonzero(mixed)
        numbers = values.ravel().copy()
        if len(where):
            numbers[where] = bound - 1 + _number(*_pack([tap[where] for tap in taps], bound))
        values = numbers.reshape(values.shape)
    # leave out the numbers that no window has
    present = np.zeros(int(values.max()) + 1, np.int64)
    present[values.ravel()] = 1
    return np.cumsum(present)[values], int(present.sum())


def _one_of_each(numbers: Ints, number: int) -> Ints:
    """A flat position of each of 1..number."""
    position = np.empty(number + 1, np.int64)
    position[numbers.ravel()] = np.arange(numbers.size)
    return position[1:]


def _pack(taps: list[Ints], bound: int) -> tuple[Ints, int]:
    """One integer for each tuple of values below ``bound``, and a bound of these integers."""
    keys, keys_bound = taps[0], bound
    for tap in taps[1:]:
        if keys_bound * bound > _sortable(len(tap)):
            keys = _number(keys, keys_bound)
            keys_bound = int(keys.max()) + 1
        keys, keys_bound = keys * bound + tap, keys_bound * bound
    return keys, keys_bound


def _sortable(size: int) -> int:
    """Keys below this leave room for an index below ``size`` in the same 63 bits."""
    return 1 << (63 - size.bit_length())


def _sorted(keys: Ints, bound: int) -> tuple[Ints, Ints]:
    """The positions of keys [P] (0 to bound-1) in ascending order of the keys, and these."""
    if bound <= _sortable(len(keys)):
        # sorting (key, position) pairs packed into one integer is several times faster than argsort
        bits = len(keys).bit_length()
        pairs = np.sort((keys << bits) | np.arange(len(keys)))
        return pairs & ((1 << bits) - 1), pairs >> bits
    order = np.argsort(keys)
    return order, keys[order]


def _begins(ascending: Ints) -> NDArray[np.bool_]:
    """Where each run of equal keys begins."""
    begins = np.ones(len(ascending), bool)
    np.not_equal(ascending[1:], ascending[:-1], out=begins[1:])
    return begins


def _number(keys: Ints, bound: int) -> Ints:
    """Number the distinct keys [P] (0 to bound-1) from 1 on, ascending: the number of each key."""
    order, ascending = _sorted(keys, bound)
    numbers = np.empty_like(order)
    numbers[order] = np.cumsum(_begins(ascending))
    return numbers


def _members(keys: Ints, bound: int) -> tuple[Ints, Ints, Ints]:
    """The distinct keys [P] (0 to bound-1), ascending; the positions sorted by key; where each key begins in them."""
    order, ascending = _sorted(keys, bound)
    starts = np.flatnonzero(_begins(ascending))
    return ascending[starts], order, starts


def _windows_around(values: Ints, pixels: Ints, kernel: int) -> Ints:
    """The k x k windows of values [M,h,w] around the given flat pixels [n], 0 outside: [n, k²]."""
    half = kernel // 2
    padded = np.pad(values, ((0, 0), (half, half), (half, half)))
    m, y, x = np.unravel_index(pixels, values.shape)
    return np.stack([padded[m, y + dy, x + dx] for dy in range(kernel) for dx in range(kernel)], 1)
