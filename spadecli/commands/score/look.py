"""How renders look beside photographs, without a network: planned, then measured. See metrics/appearance.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...core.report import Report, Task
from ...core.sizes import Size
from ...data.folder import Item
from ...data.masks import read_photo, resize_photo
from ...metrics.appearance import Appearance, appearance
from .options import ScoreOptions
from .protocol import LookProtocol
from .sets import select, sizes_of


@dataclass(frozen=True)
class Looks:
    """The figures of the renders, and of the photographs at the same size."""

    renders: Appearance
    photos: Appearance


@dataclass(frozen=True)
class LookPlan:
    """Checked inputs of :func:`measure_looks`."""

    renders: Sequence[Item]
    photos: Sequence[Item]
    protocol: LookProtocol


def plan_looks(
    options: ScoreOptions, renders: Sequence[Item], photos: Sequence[Item], names: Sequence[str]
) -> LookPlan | str:
    """Find the photographs and the size at which to compare; or the reason why there is no plan."""
    if not photos:
        return "needs a folder of photographs (--real PHOTOS)"
    sizes = sizes_of(renders)
    if options.size is None and len(sizes) > 1:
        return f"renders of {len(sizes)} sizes; say with --size HEIGHTxWIDTH at which to compare"
    real = select(photos, names, str(options.real))
    return LookPlan(renders, real, LookProtocol(str(options.real), len(real), options.size or next(iter(sizes))))


def measure_looks(plan: LookPlan, report: Report) -> Looks:
    """Measure both sets."""
    with report.progress("sharpness and colours", len(plan.renders) + len(plan.photos)) as task:
        both = (appearance(_read(s, plan.protocol.size, task)) for s in (plan.renders, plan.photos))
        return Looks(*both)


def _read(pictures: Sequence[Item], size: Size, task: Task) -> Iterator[NDArray[np.uint8]]:
    for picture in pictures:
        pixels = read_photo(picture.path)
        yield pixels if pixels.shape[:2] == size else resize_photo(pixels, size)
        task.advance()
