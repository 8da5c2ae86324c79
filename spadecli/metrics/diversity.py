"""How much the samples of one mask differ, in the features of an ImageNet network.

This is the uncalibrated baseline of Zhang et al. (CVPR 2018, equation 1 with all w = 1): features of each tap are
scaled to unit length along the channels, and squared differences are averaged over positions and summed over channels
and taps. It lacks the learned weights of LPIPS and must not be called LPIPS.
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


def sample_distances(taps: Taps, images: NDArray[np.uint8], device: Any = "cpu") -> NDArray[np.float64]:
    """Measure every pair of S images uint8 [S,H,W,3] of one mask: float64 [S·(S-1)/2] in the order (0,1), (0,2), ...

    ``taps`` takes images float32 [S,3,H,W] in [-1,1] and returns feature maps [S,C,h,w].
    Raises UserError if there are fewer than two images, or features that are not finite.
    """
    import torch

    if len(images) < 2:
        raise UserError(f"diversity needs two samples of a mask or more (found {len(images)})")
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(device).float() / 127.5 - 1
    first, _ = np.triu_indices(len(images), 1)
    total = np.zeros(len(first))
    with torch.inference_mode(), exact_math():
        for features in taps(pixels):
            unit = features / (features.square().sum(1, keepdim=True).sqrt() + EPSILON)
            for i in range(len(images) - 1):
                gap = (unit[i + 1 :] - unit[i]).square().sum(1).mean((1, 2), dtype=torch.float64)
                total[first == i] += gap.cpu().numpy()
    if not np.isfinite(total).all():
        raise UserError("the network returns features that are not finite")
    return total
