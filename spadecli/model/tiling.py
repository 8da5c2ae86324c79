"""Rendering a large map in overlapping tiles, with the same pixels as rendering it whole.

In evaluation mode a batch norm is a fixed scale and shift, so that a pixel depends on a bounded part of the semantic
map and of the first feature map. Each block is computed on its own window: the tile and a halo, which covers many
pixels of the image deep in the network and only a few in the last blocks. A window is padded with zeros, where the
whole map has values; the pixels that this makes wrong are cut off with the halo. At the borders of the image a window
has no halo: there the padding is that of the whole map.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

from ..core.architecture import Architecture
from ..core.sizes import Size

TILE = 512  # default height and width in pixels; see tests/bench/bench_tiles.py
CONVS = 2  # consecutive 3x3 convolutions in a block, each of which adds one pixel to the receptive field

Map = TypeVar("Map", bound=Any)  # a tensor or an array [..,H,W]


@dataclass(frozen=True)
class Window:
    """Rows top to bottom - 1 and columns left to right - 1 of a map."""

    top: int
    left: int
    bottom: int
    right: int

    def of(self, x: Map, step: int = 1) -> Map:
        """Cut the window out of a map [..,H,W], or of one ``step`` times as large in each direction, subsampled."""
        rows = slice(self.top * step, self.bottom * step, step)
        return x[..., rows, self.left * step : self.right * step : step]  # type: ignore[no-any-return]

    def halved(self) -> Window:
        """Return the same window before an upsampling by 2."""
        return Window(self.top // 2, self.left // 2, self.bottom // 2, self.right // 2)

    def within(self, outer: Window) -> Window:
        """Return the same window relative to ``outer``, for maps that are cut to that window."""
        return Window(self.top - outer.top, self.left - outer.left, self.bottom - outer.top, self.right - outer.left)


@dataclass(frozen=True)
class Tile:
    """A part of an image, and the window that each block computes for it.

    image: the pixels to render. blocks: the window of each block, in pixels of its own feature map. steps: pixels of
    the image per pixel of that map. upsample_before: as in the architecture.
    """

    image: Window
    blocks: tuple[Window, ...]
    steps: tuple[int, ...]
    upsample_before: tuple[bool, ...]

    def enter(self, block: int, x: Map) -> Map:
        """Cut the input of ``block``, before upsampling, out of the first feature map or the last block's output."""
        window = self.blocks[block].halved() if self.upsample_before[block] else self.blocks[block]
        return (window.within(self.blocks[block - 1]) if block else window).of(x)

    def labels(self, block: int, maps: Map) -> Map:
        """Cut the window of ``block`` out of the labels or edges [..,H,W] of the whole map, nearest sampled."""
        return self.blocks[block].of(maps, self.steps[block])

    def first(self, block: int) -> tuple[int, int]:
        """Return the row and column of the whole map where the window of ``block`` begins."""
        return self.blocks[block].top, self.blocks[block].left

    def leave(self, image: Map) -> Map:
        """Cut the tile's pixels out of an image of the last block's window."""
        return self.image.within(self.blocks[-1]).of(image)


def why_not_tiled(arch: Architecture) -> str:
    """Return why a network cannot be computed in tiles, or "" if it can."""
    if arch.norm == "instance":
        return "instance norm needs mean and variance of the whole image, and a tile holds only a part of it"
    return ""


def halos(arch: Architecture) -> tuple[int, ...]:
    """Return the width of the halo that each block computes around the tile, in pixels of the block's own map.

    From the image backwards: the last convolution adds one pixel, each block adds :data:`CONVS`, an upsampling halves.
    The two convolutions of a SPADE layer add kernel // 2 pixels of the label map each. Before an upsampling there are
    only whole pixels, so the halo is rounded up to an even number.
    """
    context = 2 * (arch.kernel // 2) if arch.conditioning == "spade" else 0
    reach, found = 1, []
    for upsample in reversed(arch.upsample_before):
        reach += CONVS
        halo = reach + context
        found.append(halo + halo % 2 if upsample else halo)
        reach = -(-reach // 2) if upsample else reach
    return tuple(reversed(found))


def find_tiles(arch: Architecture, size: Size, tile: int) -> list[Tile]:
    """Split an image of ``size`` into tiles of at most ``tile`` pixels per side, both multiples of the stride.

    The tiles are as equal as whole cells of the first feature map allow.
    """
    grid = arch.grid_for(size)
    rows, columns = (_split(cells, tile // arch.stride) for cells in grid)
    return [_tile(arch, grid, Window(top, left, bottom, right)) for top, bottom in rows for left, right in columns]


def whole_tile(arch: Architecture, size: Size) -> Tile:
    """Return one tile that is the whole image of ``size``."""
    return find_tiles(arch, size, max(size))[0]


def _split(cells: int, most: int) -> list[tuple[int, int]]:
    parts = -(-cells // most)
    ends = [cells * i // parts for i in range(parts + 1)]
    return list(pairwise(ends))


def _tile(arch: Architecture, grid: Size, cells: Window) -> Tile:
    blocks, steps, scale = [], [], 1
    for upsample, halo in zip(arch.upsample_before, halos(arch), strict=True):
        scale = 2 * scale if upsample else scale
        blocks.append(
            Window(
                max(0, cells.top * scale - halo),
                max(0, cells.left * scale - halo),
                min(grid[0] * scale, cells.bottom * scale + halo),
                min(grid[1] * scale, cells.right * scale + halo),
            )
        )
        steps.append(arch.stride // scale)
    sides = (cells.top, cells.left, cells.bottom, cells.right)
    image = Window(*(arch.stride * side for side in sides))
    return Tile(image, tuple(blocks), tuple(steps), arch.upsample_before)
