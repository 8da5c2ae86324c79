"""Windows cut out of a batch of maps, each at its own place."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.sizes import Size


def cut(x: Tensor, at: Tensor, size: Size) -> Tensor:
    """Cut windows of ``size`` (height, width) out of maps [N,C,H,W]; ``at``: int64 [N,2], their first row and column.

    The places may be known to the device alone: nothing here waits for it.
    """
    rows, columns = (at[:, i, None] + torch.arange(n, device=x.device) for i, n in enumerate(size))
    strips = torch.take_along_dim(x, rows[:, None, :, None], 2)
    return torch.take_along_dim(strips, columns[:, None, None, :], 3)
