"""Pictures of a blind comparison: same size, same encoding, so that neither gives a side away."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...data.files import read_image
from ...data.masks import resize_photo

MAX_SIDE = 512  # pixels of a picture's longer side


def equalize(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Both pictures uint8 [H,W,3] at the size of the smaller one, no side beyond MAX_SIDE."""
    height, width = min((a.shape[:2], b.shape[:2]), key=lambda s: s[0] * s[1])
    scale = min(1.0, MAX_SIDE / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    first, second = (p if p.shape[:2] == size else resize_photo(p, size) for p in (a, b))
    return first, second


def jpeg_url(pixels: NDArray[np.uint8]) -> str:
    """A picture uint8 [H,W,3] as a data URL."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def mask_url(path: Path) -> str:
    """The file of a coloured mask as a data URL, at most MAX_SIDE pixels on a side."""
    pixels = read_image(path, lambda image: np.array(image.convert("RGB")))
    image = Image.fromarray(pixels)
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
