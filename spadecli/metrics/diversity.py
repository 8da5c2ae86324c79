"""How much the samples of one mask differ, in the features of an ImageNet network.

Distances are those of Zhang et al. (CVPR 2018, equation 1): features of each tap are scaled to unit length along the
channels, and squared differences are averaged over positions and summed over channels and taps. With the learned
weights of channels it is LPIPS; with all of them 1 it is the uncalibrated baseline, which must not be called LPIPS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..compute.devices import exact_math
from ..core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Taps = Callable[["Tensor"], Sequence["Tensor"]]
EPSILON = 1e-10


def sample_distances(
    taps: Taps,
    images: NDArray[np.uint8],
    device: Any = "cpu",
    heads: Sequence[Tensor] | None = None,
    batch: int = 32,
) -> NDArray[np.float64]:
    """Measure every pair of S images uint8 [S,H,W,3] of one mask: float64 [S·(S-1)/2] in the order (0,1), (0,2), ...

    ``taps`` takes images float32 [N,3,H,W] in [-1,1] and returns feature maps [N,C,h,w]. ``heads``: weights [C] of the
    channels of each tap; None: all 1. ``batch``: images at a time; held throughout are the feature maps of all S.
    Raises UserError if there are fewer than two images, or features that are not finite.
    """
    import torch

    count = len(images)
    if count < 2:
        raise UserError(f"diversity needs two samples of a mask or more (found {count})")
    total = np.zeros(count * (count - 1) // 2)
    with torch.inference_mode(), exact_math():
        units = _unit_maps(taps, images, device, batch)
        for tap, unit in enumerate(units):
            weights = 1.0 if heads is None else heads[tap].to(device).view(1, -1, 1, 1)
            at = 0
            for i in range(count - 1):
                for others in torch.split(unit[i + 1 :], batch):
                    gap = (others - unit[i]).square_().mul_(weights).sum(1).mean((1, 2), dtype=torch.float64)
                    total[at : at + len(gap)] += gap.cpu().numpy()
                    at += len(gap)
    if not np.isfinite(total).all():
        raise UserError("the network returns features that are not finite")
    return total


def _unit_maps(taps: Taps, images: NDArray[np.uint8], device: Any, batch: int) -> list[Tensor]:
    """The maps [S,C,h,w] of each tap, scaled to unit length along the channels."""
    import torch

    units: list[Tensor] = []
    for start in range(0, len(images), batch):
        part = np.ascontiguousarray(images[start : start + batch].transpose(0, 3, 1, 2))
        maps = taps(torch.from_numpy(part).to(device).float() / 127.5 - 1)
        if not units:
            units = [m.new_empty(len(images), *m.shape[1:]) for m in maps]
        for unit, m in zip(units, maps, strict=True):
            unit[start : start + batch] = m / (m.square().sum(1, keepdim=True).sqrt() + EPSILON)
    return units
