"""The semantic map: integer channels plus edges, given to each level of the network at its own size.

It stays integer until a layer asks for it: nearest-downsampling one-hot planes equals one-hot of the
nearest-downsampled integers, at a fraction of the memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..windows.neighbourhoods import Neighbourhoods, find_neighbourhoods
from .tiling import Tile

Modulation = Literal["auto", "plain", "fast"]
Size = tuple[int, int]
WORTHWHILE_SHARE = 0.95


class SemanticMap:
    """A batch of label maps as the network sees them.

    channels: int64 [M,H,W], the class channel of each pixel, in 0..num_classes-1.
    edges: floating or integer [M,H,W] in {0,1}, or None where the label space has no instances.
    The planes are one-hot classes, then the edge plane if any.
    modulation: how SPADE layers compute gamma and beta. "plain": by convolutions of the planes. "fast": once
        for each distinct neighbourhood of labels. "auto": fast at the sizes where that is cheaper, on
        the CPU; plain on CUDA, where nothing was measured.
    memory_format: of the planes. found: neighbourhoods by size and kernel, where they were found before (see
        tables.py), None for a size where the plain form is to be used. The others are found when a layer asks,
        for which a CUDA device has to be waited for.
    """

    def __init__(
        self,
        channels: Tensor,
        edges: Tensor | None,
        num_classes: int,
        modulation: Modulation = "plain",
        memory_format: torch.memory_format = torch.contiguous_format,
        found: Mapping[tuple[Size, int], Neighbourhoods | None] | None = None,
    ) -> None:
        self.channels, self.edges, self.num_classes, self.modulation = channels, edges, num_classes, modulation
        self.memory_format = memory_format
        self._planes: dict[tuple[tuple[int, int], torch.dtype], Tensor] = {}
        self._neighbourhoods: dict[tuple[Size, int], Neighbourhoods | None] = dict(found or {})

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the full map."""
        return self.channels.shape[1], self.channels.shape[2]

    def __len__(self) -> int:
        return self.channels.shape[0]

    def planes(self, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """Planes [M, num_classes (+1), h, w] at ``size``, nearest (floor) sampled; kept for the next layer.

        ``size`` divides the full size: every level of the network is the full size over a power of two.
        """
        key = (size, dtype)
        if key not in self._planes:
            channels = nearest(self.channels, size)
            num_planes = self.num_classes + (self.edges is not None)
            shape = (len(channels), num_planes, *size)
            planes = torch.empty(shape, dtype=dtype, device=channels.device, memory_format=self.memory_format)
            planes.zero_().scatter_(1, channels[:, None], 1)
            if self.edges is not None:
                planes[:, -1] = nearest(self.edges, size)
            self._planes[key] = planes
        return self._planes[key]

    def of_block(self, tile: Tile, block: int) -> SemanticMap:
        """The map as a block of the generator sees it when it computes a tile."""
        edges = None if self.edges is None else tile.labels(block, self.edges)
        channels = tile.labels(block, self.channels)
        return SemanticMap(channels, edges, self.num_classes, self.modulation, self.memory_format)

    def neighbourhoods(self, size: Size, kernel: int) -> Neighbourhoods | None:
        """The distinct neighbourhoods at ``size``, or None where the plain convolutions are to be used."""
        if self.modulation == "plain" or (self.modulation == "auto" and self.channels.is_cuda):
            return None
        key = (size, kernel)
        if key not in self._neighbourhoods:
            codes, num_codes = label_codes(self.channels, self.edges, self.num_classes, size)
            found = find_neighbourhoods(codes, kernel, num_codes)
            used = self.modulation == "fast" or worthwhile(found.share)
            self._neighbourhoods[key] = found.to(self.channels.device) if used else None
        return self._neighbourhoods[key]


def worthwhile(share: float) -> bool:
    """Whether neighbourhoods that are this share of the pixels are cheaper for any layer at all.

    What a single layer gains is weighed by :func:`spadecli.windows.modulate.is_cheaper`.
    """
    return share <= WORTHWHILE_SHARE


def label_codes(channels: Tensor, edges: Tensor | None, num_classes: int, size: Size) -> tuple[NDArray[np.int64], int]:
    """One number, 1 and above, for channel and edge of each pixel at ``size`` [M,h,w], and how many there may be."""
    codes = nearest(channels, size).cpu().numpy().astype(np.int64)
    if edges is None:
        return codes + 1, num_classes
    return 2 * codes + nearest(edges, size).cpu().numpy().astype(np.int64) + 1, 2 * num_classes


def nearest(maps: Tensor, size: Size) -> Tensor:
    """Maps [M,H,W] nearest (floor) sampled; ``size`` divides theirs."""
    return maps[:, :: maps.shape[1] // size[0], :: maps.shape[2] // size[1]]
