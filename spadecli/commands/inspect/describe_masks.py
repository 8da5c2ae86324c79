"""Masks and folders of masks, by a label space or by what they hold."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ...core.errors import UserError
from ...core.labelspace import LabelSpace
from ...core.parallel import map_in_order
from ...core.report import Report
from ...core.sizes import Size, format_size
from ...data.files import read_image
from ...data.folder import scan
from ...data.masks import MaskFormat, most_frequent, pack_colors, read_mask, read_pixels, show_color
from ...data.statistics import ClassCounter, code_counts
from .describe_files import Rows

MAX_ROWS = 300


class _Content(NamedTuple):
    """What one mask holds: pixels of each value, or of each colour as one number."""

    size: Size
    colored: bool
    pixels: dict[int, int]


def describe_mask(path: Path, labels: LabelSpace | None, mask_format: MaskFormat) -> tuple[str, dict[str, Any], Rows]:
    """(kind, facts, rows) of one mask: its classes, or without a label space its values or colours.

    Raises UserError on unreadable masks and on values outside the label space.
    """
    facts: dict[str, Any] = {}
    if labels is not None:
        codes = read_mask(path, labels, mask_format)
        facts["size"] = format_size((codes.shape[0], codes.shape[1]))
        counter = ClassCounter(labels)
        counter.add(code_counts(codes))
        rows = [row for row in _class_rows(labels, counter) if row["pixels"]]
    else:
        content = _content(path, mask_format)
        facts["size"] = format_size(content.size)
        rows = _content_rows([content])
    if path.suffix.lower() != ".npy":
        facts["stored"] = read_image(path, lambda image: f"{image.format}, mode {image.mode}")
    return "mask", facts, rows


def describe_folder(
    folder: Path, labels: LabelSpace | None, mask_format: MaskFormat, report: Report
) -> tuple[str, dict[str, Any], Rows]:
    """(kind, facts, rows) of a folder of masks, as :func:`describe_mask` does for one.

    Raises UserError that lists every mask that is unreadable or does not fit.
    """
    items = scan(folder, "masks")
    if labels is not None:
        sizes, rows = _folder_by_classes([i.path for i in items], folder, labels, mask_format, report)
    else:
        sizes, rows = _folder_by_content([i.path for i in items], folder, mask_format, report)
    return "folder of masks", {"masks": len(items), "sizes": dict(sizes.most_common())}, rows


def _folder_by_classes(
    paths: list[Path], folder: Path, labels: LabelSpace, mask_format: MaskFormat, report: Report
) -> tuple[Counter[str], Rows]:
    counter, sizes = ClassCounter(labels), Counter[str]()
    read = partial(_counts_or_problem, labels=labels, mask_format=mask_format)
    problems = []
    with report.progress("reading masks", len(paths)) as task:
        for outcome in map_in_order(read, paths):
            task.advance()
            if isinstance(outcome, str):
                problems.append(outcome)
            else:
                counter.add(outcome[1])
                sizes[format_size(outcome[0])] += 1
    _refuse(folder, problems, len(paths))
    return sizes, _class_rows(labels, counter)


def _folder_by_content(
    paths: list[Path], folder: Path, mask_format: MaskFormat, report: Report
) -> tuple[Counter[str], Rows]:
    sizes = Counter[str]()
    problems, contents = [], []
    with report.progress("reading masks", len(paths)) as task:
        for outcome in map_in_order(partial(_content_or_problem, mask_format=mask_format), paths):
            task.advance()
            if isinstance(outcome, str):
                problems.append(outcome)
            else:
                contents.append(outcome)
                sizes[format_size(outcome.size)] += 1
    _refuse(folder, problems, len(paths))
    return sizes, _content_rows(contents)


def _refuse(folder: Path, problems: list[str], masks: int) -> None:
    if problems:
        raise UserError(f"{folder}: {len(problems)} of {masks} masks cannot be used", problems=problems)


def _counts_or_problem(path: Path, labels: LabelSpace, mask_format: MaskFormat) -> tuple[Size, Any] | str:
    try:
        codes = read_mask(path, labels, mask_format)
    except UserError as e:
        return e.line
    return (codes.shape[0], codes.shape[1]), code_counts(codes)


def _content_or_problem(path: Path, mask_format: MaskFormat) -> _Content | str:
    try:
        return _content(path, mask_format)
    except UserError as e:
        return e.line


def _content(path: Path, mask_format: MaskFormat) -> _Content:
    pixels = read_pixels(path, mask_format)
    colored = pixels.ndim == 3
    found = most_frequent(pack_colors(pixels) if colored else pixels)
    return _Content((pixels.shape[0], pixels.shape[1]), colored, dict(found[:MAX_ROWS]))


def _class_rows(labels: LabelSpace, counter: ClassCounter) -> Rows:
    return [
        {"value": _values(c.values), "name": count.name, "pixels": count.pixels, "images": count.images}
        for c, count in zip(labels.classes, counter.result(), strict=True)
    ]


def _values(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values))


def _content_rows(contents: list[_Content]) -> Rows:
    pixels, images = Counter[tuple[bool, int]](), Counter[tuple[bool, int]]()
    for content in contents:
        for value, count in content.pixels.items():
            pixels[content.colored, value] += count
            images[content.colored, value] += 1
    shown = sorted(pixels, key=lambda key: (key[0], -pixels[key] if key[0] else key[1]))[:MAX_ROWS]
    return [
        {
            "value": show_color(value) if colored else str(value),
            "pixels": pixels[colored, value],
            "images": images[colored, value],
        }
        for colored, value in shown
    ]
