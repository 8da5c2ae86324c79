"""Conversion between pictures (uint8) and the networks' inputs and outputs (float32 in [-1,1])."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def image_bytes(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Convert network output float32 [3,H,W] to uint8 [H,W,3]: clip(trunc((x+1)/2·255)), as in the published code."""
    scaled = np.clip(np.trunc((image + 1) / 2 * 255), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(scaled.transpose(1, 2, 0))


def photo_values(photo: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Convert a photo uint8 [H,W,3] to float32 [3,H,W] in [-1,1]."""
    return np.ascontiguousarray(photo.transpose(2, 0, 1)).astype(np.float32) / np.float32(127.5) - 1
