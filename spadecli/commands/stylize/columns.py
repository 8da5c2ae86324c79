"""From references to the styles that every mask is rendered in: columns of the gallery, folders of the output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ...core.errors import UserError
from ...core.style_code import StyleCode, mix
from ...store.styles_file import StyleEntry
from ..render.latents import Style
from .references import Mix, Reference

MAX_STYLES = 10_000


@dataclass(frozen=True)
class Column:
    """A style and the thumbnails (JPEG) of the photos that it was made of."""

    style: Style
    thumbnails: tuple[bytes, ...]


@dataclass(frozen=True)
class StyleSettings:
    """Settings of every style: see :class:`spadecli.commands.stylize.command.StylizeOptions`."""

    strength: float
    noise: float
    spherical: bool
    interpolate: int


def make_columns(
    references: Sequence[Reference],
    mixes: Sequence[Mix],
    entries: Mapping[Reference, StyleEntry],
    settings: StyleSettings,
) -> list[Column]:
    """Columns in order: each reference, after it the steps to the next; then the mixes.

    Raises UserError where two would have one name.
    """

    def column(name: str, caption: str, parts: Sequence[tuple[Reference, float]]) -> Column:
        found = [entries[reference] for reference, _ in parts]
        weights = [weight for _, weight in parts]
        code = found[0].code if len(parts) == 1 else mix([e.code for e in found], weights, settings.spherical)
        return Column(_style(name, caption, code, found, weights, settings), tuple(e.thumbnail for e in found))

    columns = [column(r.name, r.name, [(r, 1.0)]) for r in references[:1]]
    for a, b in pairwise(references):
        columns += _steps(a, b, settings.interpolate, column)
        columns.append(column(b.name, b.name, [(b, 1.0)]))
    for m in mixes:
        words = [f"{reference.name}:{weight:g}" for reference, weight in m.parts]
        columns.append(column("+".join(w.replace(":", "=") for w in words), " + ".join(words), m.parts))
    names = [c.style.name.casefold() for c in columns]
    if twice := sorted({c.style.name for c in columns if names.count(c.style.name.casefold()) > 1}):
        raise UserError(f"two styles of one name: {', '.join(twice)}", hint="leave one of them out, or rename a photo")
    if len(columns) > MAX_STYLES:
        raise UserError(f"{len(columns):,} styles; expected at most {MAX_STYLES:,}")
    return columns


def _steps(
    a: Reference, b: Reference, number: int, column: Callable[[str, str, Sequence[tuple[Reference, float]]], Column]
) -> list[Column]:
    """``number`` columns between two references, evenly spaced, without the references themselves."""
    width = len(str(number))
    return [
        column(
            f"{a.name}-{b.name}-{i:0{width}}of{number + 1}",
            f"{i}/{number + 1} to {b.name}",
            [(a, 1 - i / (number + 1)), (b, i / (number + 1))],
        )
        for i in range(1, number + 1)
    ]


def _style(
    name: str,
    caption: str,
    code: StyleCode,
    found: Sequence[StyleEntry],
    weights: Sequence[float],
    settings: StyleSettings,
) -> Style:
    has_picture = all(entry.thumbnail for entry in found)
    return Style(
        name=name,
        code=code,
        parts=tuple((entry.photo_sha256, weight) for entry, weight in zip(found, weights, strict=True)),
        spherical=settings.spherical and len(found) > 1,
        strength=settings.strength,
        noise=settings.noise,
        picture=f"_styles/{name}_style.jpg" if has_picture else "",  # no image can have it: they end in a number
        caption=caption,
    )
