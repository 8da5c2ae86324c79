"""The semantic map: integer channels plus edges, given to each level of the network at its own size.

It stays integer until a layer asks for it: nearest-downsampling one-hot planes equals one-hot of the
nearest-downsampled integers, at a fraction of the memory.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .neighbourhoods import Neighbourhoods, find_neighbourhoods

Modulation = Literal["auto", "plain", "fast"]
WORTHWHILE_SHARE = 0.6


class SemanticMap:
    """A batch of label maps as the network sees them.

    channels: int64 [M,H,W], the class channel of each pixel, in 0..num_classes-1.
    edges: floating or integer [M,H,W] in {0,1}, or None where the label space has no instances.
    The planes are one-hot classes, then the edge plane if any.
    modulation: how SPADE layers compute gamma and beta. "plain": by convolutions of the planes. "fast": once
        for each distinct neighbourhood of labels. "auto": fast at the sizes where that is cheaper, on
        the CPU; plain on CUDA, where building the tables would wait for the device and nothing was measured.
    """

    def __init__(
        self,
        channels: Tensor,
        edges: Tensor | None,
        num_classes: int,
        modulation: Modulation = "plain",
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self.channels, self.edges, self.num_classes, self.modulation = channels, edges, num_classes, modulation
        self.memory_format = memory_format
        self._planes: dict[tuple[tuple[int, int], torch.dtype], Tensor] = {}
        self._neighbourhoods: dict[tuple[tuple[int, int], int], Neighbourhoods] = {}

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
            channels, edges = self._at(size)
            num_planes = self.num_classes + (edges is not None)
            shape = (len(channels), num_planes, *size)
            planes = torch.empty(shape, dtype=dtype, device=channels.device, memory_format=self.memory_format)
            planes.zero_().scatter_(1, channels[:, None], 1)
            if edges is not None:
                planes[:, -1] = edges
            self._planes[key] = planes
        return self._planes[key]

    def neighbourhoods(self, size: tuple[int, int], kernel: int) -> Neighbourhoods | None:
        """The distinct neighbourhoods at ``size``, or None where the plain convolutions are to be used."""
        if self.modulation == "plain" or (self.modulation == "auto" and self.channels.is_cuda):
            return None
        key = (size, kernel)
        if key not in self._neighbourhoods:
            channels, edges = self._at(size)
            codes = channels + 1 if edges is None else 2 * channels + edges.long() + 1
            num_codes = self.num_classes if edges is None else 2 * self.num_classes
            found = find_neighbourhoods(codes.cpu().numpy(), kernel, num_codes)
            self._neighbourhoods[key] = found.map(lambda t: t.to(channels.device))
        found = self._neighbourhoods[key]
        return found if self.modulation == "fast" or found.share <= WORTHWHILE_SHARE else None

    def _at(self, size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        """Channels and edges, nearest (floor) sampled."""
        step_y, step_x = self.size[0] // size[0], self.size[1] // size[1]
        edges = self.edges[:, ::step_y, ::step_x] if self.edges is not None else None
        return self.channels[:, ::step_y, ::step_x], edges
