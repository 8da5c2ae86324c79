"""Reducing a crop to the size of a training stage: photographs by area, label maps by pixel, edges by survival."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..core.sizes import Size


def shrink_photo(photo: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Reduce a photo uint8 [H,W,3] to ``size`` (height, width): each pixel is the mean over the area it covers.

    Rounded once: Pillow rounds the bytes of a colour picture up twice, which makes photographs brighter.
    """
    planes = photo.transpose(2, 0, 1).astype(np.float32)
    means = [np.asarray(Image.fromarray(plane).resize(size[::-1], Image.Resampling.BOX)) for plane in planes]
    return np.asarray(np.rint(np.stack(means, -1)).astype(np.uint8))


def shrink_edges(edges: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Reduce an edge map, 0 or 1, uint8 [H,W] to ``size``, at most (H, W): a pixel is 1 if any is of those it replaces.

    Every pixel is replaced by exactly one, so that no edge is lost.
    """
    for axis, length in enumerate(size):
        firsts = np.arange(length) * edges.shape[axis] // length
        edges = np.maximum.reduceat(edges, firsts, axis=axis)
    return edges
