"""Noise for every pixel, so that a generator has something to make texture of (``model.pixel_noise``).

SPADE gives all pixels deep inside a region the same scale and shift: texture can only come from borders and from the
first feature map. StyleGAN adds noise to its feature maps, weighted for each channel (Karras et al., CVPR 2019, section
3.2), and OASIS concatenates it to the label map (Schönfeld et al., ICLR 2021). Here it is added to the output of each
block: SPADE layers then remain functions of the label map alone, and can be computed once for each distinct window.

Training gives each image noise of its own; everywhere else it depends on the position alone, so that an image is still
a function of mask and z, in every backend and in tiles.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..core.sizes import Size

PERIOD = 256  # pixels after which the noise repeats, at each size of feature map
BLOCK_STEP = 101  # rows and columns from the noise of one block to that of the next
SEED = 20190
GAIN = 5.0  # times the learned weights, so that these grow at a useful rate from 0


@cache
def noise_pattern() -> NDArray[np.float32]:
    """The values [PERIOD,PERIOD]: normal, and the same on every machine."""
    # RandomState's stream is frozen by NumPy's compatibility policy
    return np.random.RandomState(SEED).standard_normal((PERIOD, PERIOD)).astype(np.float32)


def noise_of(block: int, size: Size) -> NDArray[np.float32]:
    """Return the noise of a block's whole feature map, [h,w]."""
    rows, columns = ((np.arange(length) + block * BLOCK_STEP) % PERIOD for length in size)
    return noise_pattern()[rows[:, None], columns]


class PixelNoise(nn.Module):
    """x + weight · noise, after block number ``block``."""

    def __init__(self, block: int, channels: int) -> None:
        super().__init__()
        self.block = block
        self.weight = nn.Parameter(torch.zeros(channels))
        self.register_buffer("pattern", torch.tensor(noise_pattern(), device="cpu"), persistent=False)

    def forward(self, x: Tensor, first: tuple[int, int] = (0, 0), places: Tensor | None = None) -> Tensor:
        """Feature map [N,C,h,w] -> the same shape.

        first: row and column of the whole map where x begins. places: int64 [N,2], where each image's noise begins in
            the pattern; None for the noise of :func:`noise_of`, the same in all images.
        Without gradients x itself is changed.
        """
        rows, columns = (
            (torch.arange(n, device=x.device)[None] + begin + self.block * BLOCK_STEP) % PERIOD
            for n, begin in zip(x.shape[2:], first if places is None else places.T[:, :, None], strict=True)
        )
        noise = self.get_buffer("pattern")[rows[:, :, None], columns[:, None, :]][:, None].to(x.dtype)
        weight = (GAIN * self.weight).to(x.dtype)[:, None, None]
        return torch.addcmul(x, noise, weight) if torch.is_grad_enabled() else x.addcmul_(noise, weight)
