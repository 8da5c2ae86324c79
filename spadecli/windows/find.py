"""The distinct label windows of a batch of maps: the receptive fields of SPADE's two convolutions.

At a pixel, a k x k convolution of a k x k convolution of the label map depends on a k x k *window* of *patches*, where
each patch is the k x k label codes around one pixel of the window. Real maps have few distinct windows, so the layer is
computed once for each of them and gathered: in training (modulate.py) and in inference (tables.py). One search per
resolution serves every SPADE layer of that resolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.sizes import Size
from ..kernels import native

Ints = NDArray[np.int32]
# If more than this share of pixels differ from their neighbour, windows repeat too seldom to be worth a search. In
# small maps the search takes hardly any time, so it pays up to a larger share.
NOISE, NOISE_IN_SMALL = 0.2, 0.5
SMALL = 1 << 12  # pixels


@dataclass(frozen=True)
class Windows:
    """The distinct windows of M maps of one size, for two convolutions of kernel size k. All tensors are int32.

    patches: [n, k²] the codes of each distinct patch in reading order, 0 outside the map.
    windows: [w, k²] the patches in each distinct window, numbered from 1; 0 outside the map.
    window_of_pixel: [M,h,w] the window around each pixel, 0..w-1.
    every_pixel: no search was made: patches and windows are those of every pixel in reading order, and may repeat.
    """

    patches: Tensor
    windows: Tensor
    window_of_pixel: Tensor
    every_pixel: bool = False

    @property
    def share(self) -> float:
        """Distinct windows as a share of the pixels: the share of the work that remains."""
        return len(self.windows) / self.window_of_pixel.numel()

    @cached_property
    def pixel_of_window(self) -> Tensor:
        """[w] the first pixel, in flat order, with each window."""
        flat = self.window_of_pixel.flatten()
        number = torch.arange(len(flat) - 1, -1, -1, device=flat.device)
        return torch.zeros(len(self.windows), dtype=torch.int64, device=flat.device).scatter_reduce_(
            0, flat.flip(0).long(), number, "amin", include_self=False
        )

    def to(self, device: torch.device) -> Windows:
        """Return the windows on another device, copied from pinned memory so that the copy overlaps with work there."""
        if device.type == "cpu":
            return self
        patches, windows, window_of_pixel = (
            t.pin_memory().to(device, non_blocking=True) for t in (self.patches, self.windows, self.window_of_pixel)
        )
        return Windows(patches, windows, window_of_pixel, self.every_pixel)


def label_codes(channels: NDArray[np.integer], edges: NDArray[np.integer] | None) -> Ints:
    """Combine class and edge of each pixel [..] into one code >= 1: channel + 1, or 2·channel + edge + 1."""
    codes = channels.astype(np.int32)
    return codes + 1 if edges is None else 2 * codes + edges.astype(np.int32) + 1


def num_codes(num_classes: int, has_edges: bool) -> int:
    """Return the number of different codes of :func:`label_codes`."""
    return num_classes * (1 + has_edges)


def sampled_codes(channels: Tensor, edges: Tensor | None, size: Size) -> Ints:
    """Return :func:`label_codes` of tensors [M,H,W], nearest sampled at ``size``. Synchronises with a CUDA device."""
    sampled = [nearest(maps, size).cpu().numpy() for maps in (channels, edges) if maps is not None]
    return label_codes(sampled[0], sampled[1] if edges is not None else None)


def nearest(maps: Tensor, size: Size) -> Tensor:
    """Sample maps [M,H,W] at ``size``, which divides theirs, by nearest (floor)."""
    return maps[:, :: maps.shape[1] // size[0], :: maps.shape[2] // size[1]]


def find_windows(codes: Ints, kernel: int, search_noise: bool = True) -> Windows:
    """Find the distinct windows of codes int32 [M,h,w], all >= 1, by exact comparison; tensors on the CPU.

    search_noise: also search maps in which windows hardly repeat; if False, these get one window per pixel.
    """
    codes = np.ascontiguousarray(codes, np.int32)
    if not search_noise and _changes(codes) > (NOISE if codes.size > SMALL else NOISE_IN_SMALL):
        pixels = np.arange(codes.size, dtype=np.int32)
        window_of_pixel = pixels.reshape(codes.shape)
        return _as_tensors(
            _patches_at(codes, pixels, kernel), _patches_at(window_of_pixel + 1, pixels, kernel), window_of_pixel, True
        )
    if native.available():
        patches, windows, window_of_pixel = native.find_windows(codes, kernel)
    else:
        patch_of_pixel, firsts = _number_patches(codes, kernel)
        patches = _patches_at(codes, firsts, kernel)
        numbers, firsts = _number_patches(patch_of_pixel, kernel)
        windows, window_of_pixel = _patches_at(patch_of_pixel, firsts, kernel), numbers - 1
    return _as_tensors(patches, windows, window_of_pixel)


def _as_tensors(patches: Ints, windows: Ints, window_of_pixel: Ints, every_pixel: bool = False) -> Windows:
    a, b, c = map(torch.from_numpy, (patches, windows, window_of_pixel))
    return Windows(a, b, c, every_pixel)


def _changes(codes: Ints) -> float:
    """Return the share of pixels that differ from the next one, across or down, whichever is larger."""
    shares = [(codes[:, :, 1:] != codes[:, :, :-1]), (codes[:, 1:] != codes[:, :-1])]
    return max(float(s.mean()) if s.size else 0.0 for s in shares)


def _number_patches(values: Ints, kernel: int) -> tuple[Ints, NDArray[np.int64]]:
    """Number the distinct k x k patches of values [M,h,w] from 1; return each pixel's number, and one pixel of each.

    The rows of the patches are numbered first, then the columns of row numbers.
    """
    firsts = np.empty(0, np.int64)
    for axis in (2, 1):
        length = values.shape[axis]
        border = [(0, 0)] * 3
        border[axis] = (kernel // 2, kernel // 2)
        padded = np.pad(values, border).astype(np.int64)
        keys, bound = np.zeros(values.shape, np.int64), 1
        step = int(values.max()) + 1
        for i in range(kernel):
            if bound * step >= 1 << 62:
                keys = np.unique(keys, return_inverse=True)[1].reshape(values.shape)
                bound = int(keys.max()) + 1
            keys = keys * step + padded.take(range(i, i + length), axis)
            bound *= step
        _, firsts, numbers = np.unique(keys, return_index=True, return_inverse=True)
        values = (numbers.reshape(values.shape) + 1).astype(np.int32)
    return values, firsts


def _patches_at(values: Ints, pixels: NDArray[np.integer], kernel: int) -> Ints:
    """Cut the k x k patches around flat pixels [n] out of values [M,h,w], 0 outside: [n, k²]."""
    half = kernel // 2
    padded = np.pad(values, ((0, 0), (half, half), (half, half)))
    m, y, x = np.unravel_index(pixels, values.shape)
    return np.stack([padded[m, y + dy, x + dx] for dy in range(kernel) for dx in range(kernel)], 1)
