"""Image sizes: as text, height first, and how often they can be halved."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

from .errors import UserError

Size = tuple[int, int]
Native = Literal["native"]
MOST_HALVINGS = 6  # of the U-Net of OASIS, at 256x256
SMALLEST = 4  # pixels of its coarsest map's shorter side, there


def parse_size(text: str) -> Size | Native:
    """Parse "256x512" to (256, 512), height first; "native" is returned as it is. Raises UserError otherwise."""
    if text == "native":
        return "native"
    if found := re.fullmatch(r"([1-9]\d{0,5})[xX×]([1-9]\d{0,5})", text):
        return int(found[1]), int(found[2])
    raise UserError(f"size {text!r}: expected HEIGHTxWIDTH or native", hint="for example --size 256x512")


def parse_fixed_size(text: str | None) -> Size | None:
    """Parse a size like :func:`parse_size` but refuse "native"; None is returned as it is."""
    if text is None:
        return None
    size = parse_size(text)
    if size == "native":
        raise UserError("size 'native': expected HEIGHTxWIDTH", hint="for example --size 256x512")
    return size


def format_size(size: Size) -> str:
    """Format (256, 512) as "256x512"."""
    return f"{size[0]}x{size[1]}"


def round_to_stride(size: Size, stride: int) -> Size:
    """Return the nearest (height, width) whose sides are multiples of ``stride``, at least one stride each."""
    height, width = (max(stride, (2 * s + stride) // (2 * stride) * stride) for s in size)
    return height, width


def unet_depth(sizes: Sequence[Size], windows: Sequence[Size] = ()) -> int:
    """Return how often a U-Net for images of all ``sizes``, and windows of them, halves them: 6 times from 256x256 on.

    Smaller images are halved down to 4 pixels, and none further than its sides, and the windows', divide by two.
    """
    sides, smallest = math.gcd(*(n for size in (*sizes, *windows) for n in size)), min(map(min, sizes))
    return max(n for n in range(MOST_HALVINGS + 1) if sides % (1 << n) == 0 and smallest >> n >= SMALLEST)
