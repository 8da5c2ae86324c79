"""Rendering a large map in overlapping tiles, with the pixels of the whole.

In evaluation a batch norm is a fixed scale and shift, so that a pixel depends on a bounded part of the map and of the
first feature map. Each block is computed on a window of its own, the tile and a halo around it: deep in the network
the halo is many tiles' pixels wide, at the size of the image a few. What a window lacks at its border (its padding
is zeros, the whole map's is not) is cut off with the halo. At the borders of the image a window has no halo: there
the padding is the whole map's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

from ..core.architecture import Architecture
from ..core.sizes import Size

TILE = 512  # default height and width in pixels; see tests/bench/bench_tiles.py
CONVS = 2  # 3x3 convolutions of a block, one after the other, each of which sees a pixel further

Map = TypeVar("Map", bound=Any)  # a tensor or an array [..,H,W]


@dataclass(frozen=True)
class Window:
    """Rows top to bottom - 1 and columns left to right - 1 of a map."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        """In pixels."""
        return (self.bottom - self.top) * (self.right - self.left)

    def of(self, x: Map, step: int = 1) -> Map:
        """The window of a map [..,H,W], or of one ``step`` times as large in each direction, subsampled."""
        rows = slice(self.top * step, self.bottom * step, step)
        return x[..., rows, self.left * step : self.right * step : step]  # type: ignore[no-any-return]

    def halved(self) -> Window:
        """The same window before an upsampling."""
        return Window(self.top // 2, self.left // 2, self.bottom // 2, self.right // 2)

    def within(self, outer: Window) -> Window:
        """The same window of a map that is itself a window."""
        return Window(self.top - outer.top, self.left - outer.left, self.bottom - outer.top, self.right - outer.left)


@dataclass(frozen=True)
class Tile:
    """A part of an image, and what each block computes for it.

    image: the pixels to be made. blocks: the window of each block's map, ``steps`` pixels of the image to one of its
    own. upsample_before: as the architecture says.
    """

    image: Window
    blocks: tuple[Window, ...]
    steps: tuple[int, ...]
    upsample_before: tuple[bool, ...]

    def enter(self, block: int, x: Map) -> Map:
        """What ``block`` takes, before its upsampling, of the first feature map (block 0) or of the block before's."""
        window = self.blocks[block].halved() if self.upsample_before[block] else self.blocks[block]
        return (window.within(self.blocks[block - 1]) if block else window).of(x)

    def labels(self, block: int, maps: Map) -> Map:
        """The whole map's labels or edges [..,H,W] as ``block`` sees them: nearest sampled, its window alone."""
        return self.blocks[block].of(maps, self.steps[block])

    def leave(self, image: Map) -> Map:
        """The tile's pixels of an image of the last block's window."""
        return self.image.within(self.blocks[-1]).of(image)


def why_not_tiled(arch: Architecture) -> str:
    """Why a network cannot be computed in tiles; empty where it can."""
    if arch.norm == "instance":
        return "instance norm takes mean and variance over the whole image, of which a tile knows a part"
    return ""


def halos(arch: Architecture) -> tuple[int, ...]:
    """How far beyond the tile each block is computed, in pixels of the block's own map.

    From the image back: the last convolution sees one pixel further, each block :data:`CONVS` further, an upsampling
    halves. A SPADE layer sees the labels kernel // 2 further for each of its two convolutions. Before an upsampling
    there are only whole pixels: up to an even number.
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
    """Tiles of an image of ``size``, none larger than ``tile`` pixels a side, as even as whole cells of the first
    feature map allow. ``size`` and ``tile`` are multiples of the stride."""
    grid = arch.grid_for(size)
    rows, columns = (_split(cells, tile // arch.stride) for cells in grid)
    return [_tile(arch, grid, Window(top, left, bottom, right)) for top, bottom in rows for left, right in columns]


def whole_tile(arch: Architecture, size: Size) -> Tile:
    """All of an image of ``size`` as one tile."""
    return find_tiles(arch, size, max(size))[0]


def overhead(arch: Architecture, tiles: list[Tile], size: Size) -> float:
    """How many times the work of the whole the tiles are, counted in 3x3 convolutions."""
    work = whole = 0.0
    for i, cost in enumerate(_costs(arch)):
        pixels = (size[0] // tiles[0].steps[i]) * (size[1] // tiles[0].steps[i])
        whole += cost * pixels
        work += cost * sum(tile.blocks[i].area for tile in tiles)
    return work / whole


def _costs(arch: Architecture) -> list[int]:
    """Of a pixel in each block, in products of channels."""
    widths = arch.widths
    return [min(fin, fout) * (fin + fout) for fin, fout in zip([16 * arch.ngf, *widths], widths, strict=False)]


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
