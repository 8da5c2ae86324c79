"""Reading one pair of photo and mask, resized for packing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UserError
from ..core.labelspace import LabelSpace
from .folder import Pair
from .masks import (
    MaskFormat,
    Size,
    check_is_photo,
    read_instances,
    read_mask,
    read_photo,
    read_pixels,
    resize_codes,
    resize_instances,
    resize_photo,
)
from .outside import find_outside
from .packed import Sample
from .statistics import code_counts

LARGE = 3 << 20  # values of a photo in which the search for what is outside takes seconds

# (key, label codes uint8 [H,W]) -> instance ids uint32 [H,W]
DrawInstances = Callable[[str, NDArray[np.uint8]], NDArray[np.uint32]]


@dataclass(frozen=True)
class ReadPair:
    """A resized pair. photo_size: the photo's original size. counts: int64 [256], original mask pixels of each code."""

    sample: Sample
    photo_size: Size
    counts: NDArray[np.int64]


def _photo(path: Path) -> NDArray[np.uint8]:
    check_is_photo(path)
    return read_photo(path)


def read_pair(
    pair: Pair,
    labels: LabelSpace,
    size: Size,
    mask_format: MaskFormat = "auto",
    draw_instances: DrawInstances | None = None,
    is_outside_found: bool = False,
) -> ReadPair | list[str]:
    """Read, check and resize a pair to ``size`` (height, width); or return one line per problem.

    draw_instances: draws the instance map of a pair without a file for it. What the pair's mask of the outside marks,
    or is found in the photo if ``is_outside_found``, gets the label space's unknown class.
    """
    problems: list[str] = []
    codes = _attempt(problems, read_mask, pair.mask.path, labels, mask_format)
    if pair.outside is not None and codes is not None:
        codes = _attempt(problems, mark_outside, codes, pair.outside.path, labels)
    photo = _attempt(problems, _photo, pair.photo.path)
    if is_outside_found and codes is not None and photo is not None:
        small = resize_photo(photo, size) if photo.size > LARGE else photo
        marks = resize_codes(find_outside(small).astype(np.uint8), (codes.shape[0], codes.shape[1]))
        codes = np.where(marks != 0, labels.channel_to_code[labels.unknown_channel], codes)
    instances = None
    if pair.instances is not None:
        instances = _attempt(problems, read_instances, pair.instances.path)
    elif draw_instances is not None and codes is not None:
        instances = _attempt(problems, draw_instances, pair.key, codes)
    for other, pixels in ((pair.photo, photo), (pair.instances, instances)):
        if codes is None or other is None or pixels is None:
            continue
        if not same_aspect(codes.shape[:2], pixels.shape[:2]):
            found = f"{pixels.shape[0]}x{pixels.shape[1]} (height x width)"
            expected = f"{codes.shape[0]}x{codes.shape[1]}"
            problems.append(f"{other.path}: {found} differs in aspect from its mask {pair.mask.path}, {expected}")
    if problems or codes is None or photo is None:
        return problems
    return ReadPair(
        sample=(
            resize_codes(codes, size),
            resize_instances(instances, size) if instances is not None else None,
            resize_photo(photo, size),
        ),
        photo_size=(photo.shape[0], photo.shape[1]),
        counts=code_counts(codes),
    )


def mark_outside(codes: NDArray[np.uint8], path: Path, labels: LabelSpace) -> NDArray[np.uint8]:
    """Return label codes [H,W] with the unknown class where the mask of the outside is not 0.

    Raises UserError if the label space has no such class, or the file is damaged, no 1-bit mask or of another size.
    """
    if labels.unknown_channel is None:
        raise UserError(f"{path}: label space {labels.name!r} has no unknown class for what it marks")
    marks = read_pixels(path)
    if marks.ndim != 2 or len(np.unique(marks[marks != 0])) > 1:
        raise UserError(f"{path}: not a 1-bit mask: expected 0 inside the picture, and one other value outside")
    if marks.shape != codes.shape:
        found, expected = ("x".join(map(str, x.shape)) for x in (marks, codes))
        raise UserError(f"{path}: {found} (height x width), and its label map is {expected}")
    return np.where(marks != 0, labels.channel_to_code[labels.unknown_channel], codes)


def same_aspect(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether two sizes (height, width) have the same aspect ratio, up to a pixel of rounding."""
    return abs(a[0] * b[1] - a[1] * b[0]) <= max(*a, *b)


def _attempt(problems: list[str], function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except UserError as e:
        problems.append(e.line)
        return None
