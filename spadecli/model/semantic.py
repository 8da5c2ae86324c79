"""The semantic map: integer channels plus edges, given to each level of the network at its own size.

It stays integer until a layer asks for it: nearest-downsampling one-hot planes equals one-hot of the
nearest-downsampled integers, at a fraction of the memory.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


class SemanticMap:
    """A batch of label maps as the network sees them.

    channels: int64 [M,H,W], the class channel of each pixel, in 0..num_classes-1.
    edges: floating or integer [M,H,W] in {0,1}, or None where the label space has no instances.
    The planes are one-hot classes, then the edge plane if any.
    """

    def __init__(self, channels: Tensor, edges: Tensor | None, num_classes: int) -> None:
        self.channels, self.edges, self.num_classes = channels, edges, num_classes
        self._planes: dict[tuple[tuple[int, int], torch.dtype], Tensor] = {}

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
            step_y, step_x = self.size[0] // size[0], self.size[1] // size[1]
            small = self.channels[:, ::step_y, ::step_x]
            planes = F.one_hot(small, self.num_classes).permute(0, 3, 1, 2).to(dtype)
            if self.edges is not None:
                planes = torch.cat([planes, self.edges[:, None, ::step_y, ::step_x].to(dtype)], 1)
            self._planes[key] = planes
        return self._planes[key]
