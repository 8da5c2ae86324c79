"""The semantic map: integer class channels plus edges, sampled at the size of each level of the network.

It stays integer until a layer needs its planes: one-hot encoding after nearest downsampling gives the same planes as
downsampling one-hot planes, in a fraction of the memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..core.sizes import Size
from ..windows.find import find_windows, nearest, num_codes, sampled_codes
from ..windows.modulate import is_worthwhile
from ..windows.segments import TrainingWindows
from .tiling import Tile

Modulation = Literal["auto", "plain", "fast"]
NO_CLASS = -1


class SemanticMap:
    """A batch of label maps as the network sees them.

    channels: int64 [M,H,W], the class channel of each pixel, in 0..num_classes-1.
    edges: floating or integer [M,H,W] in {0,1}, or None if the label space has no instances.
    modulation: how SPADE layers compute gamma and beta. "plain": by convolutions of the planes. "fast": once
        per distinct label window. "auto": fast where that is cheaper, on the CPU; plain on CUDA.
    memory_format: the memory format of the planes.
    windows: known windows by size and kernel (see windows/collate.py); None for a size that uses the plain form. The
        others are found when a layer needs them, which synchronises with a CUDA device.

    The planes are the one-hot classes, followed by the edge plane if there are edges.
    """

    def __init__(
        self,
        channels: Tensor,
        edges: Tensor | None,
        num_classes: int,
        modulation: Modulation = "plain",
        memory_format: torch.memory_format = torch.contiguous_format,
        windows: Mapping[tuple[Size, int], TrainingWindows | None] | None = None,
    ) -> None:
        self.channels, self.edges, self.num_classes, self.modulation = channels, edges, num_classes, modulation
        self.memory_format = memory_format
        self._planes: dict[tuple[Size, torch.dtype], Tensor] = {}
        self._given: Tensor | None = None
        self._windows: dict[tuple[Size, int], TrainingWindows | None] = dict(windows or {})

    @property
    def size(self) -> Size:
        """(height, width) of the whole map."""
        return self.channels.shape[1], self.channels.shape[2]

    def __len__(self) -> int:
        return self.channels.shape[0]

    def planes(self, size: Size, dtype: torch.dtype) -> Tensor:
        """Return the planes [M, num_classes (+1), h, w] at ``size``, nearest (floor) sampled; cached for other layers.

        ``size`` must divide the full size: every level of the network is the full size over a power of two.
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

    def with_planes(self, planes: Tensor) -> SemanticMap:
        """Return a map with these planes [M,P,H,W] at its whole size, in their dtype, for a discriminator."""
        semantic = SemanticMap(self.channels, self.edges, self.num_classes, "plain", self.memory_format)
        semantic._planes[self.size, planes.dtype] = semantic._given = planes
        return semantic

    def classes(self) -> Tensor:
        """Return the class of each pixel of the map or, if there are any, of :meth:`with_planes`: int64 [M,H,W];
        :data:`NO_CLASS` where the planes of all classes are 0, as where a map was moved away."""
        if self._given is None:
            return self.channels
        share, found = self._given[:, : self.num_classes].max(1)
        return torch.where(share > 0, found, NO_CLASS)

    def of_block(self, tile: Tile, block: int) -> SemanticMap:
        """Return the part of the map that a block of the generator needs to compute a tile, at the block's size."""
        edges = None if self.edges is None else tile.labels(block, self.edges)
        channels = tile.labels(block, self.channels)
        return SemanticMap(channels, edges, self.num_classes, self.modulation, self.memory_format)

    def windows(self, size: Size, kernel: int) -> TrainingWindows | None:
        """Return the distinct windows at ``size``, or None if the plain convolutions are to be used."""
        if self.modulation == "plain" or (self.modulation == "auto" and self.channels.is_cuda):
            return None
        key = (size, kernel)
        if key not in self._windows:
            found = find_windows(sampled_codes(self.channels, self.edges, size), kernel)
            windows = TrainingWindows.build(found, num_codes(self.num_classes, self.edges is not None))
            used = self.modulation == "fast" or is_worthwhile(windows.share)
            self._windows[key] = windows.to(self.channels.device) if used else None
        return self._windows[key]


@dataclass(frozen=True)
class BatchClasses:
    """What a step knows of the classes of its batch, for a discriminator that judges them one by one.

    shares: [num_classes], each class's share of the label pixels of the step's whole batch: of all micro-batches, in
    all processes (see :func:`class_shares`).
    from_photo: bool [N,num_classes], the classes that LabelMix takes from the photo in each image of this micro-batch;
    None without LabelMix.
    """

    shares: Tensor
    from_photo: Tensor | None = None


def class_shares(channels: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """Return the share of each class among the pixels of integer ``channels`` [N,H,W], as [num_classes] of ``dtype``.

    They are counted as integers, on the device of the channels, which nothing waits for.
    """
    pixels = channels.flatten().long()
    counts = torch.zeros(num_classes, dtype=torch.int64, device=pixels.device)
    return counts.scatter_add_(0, pixels, torch.ones_like(pixels)).to(dtype) / pixels.numel()
