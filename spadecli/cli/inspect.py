"""``spade inspect``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from . import render_options as shared
from .ui import UI, AsJson, Quiet, Verbose

STYLE = "Use of style (of weights)"
MAX_SHOWN = 50  # of a list, without --json


def inspect(
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="Mask, folder of masks or renders, run, recipe, weights or .h5 file."),
    ],
    weights: Annotated[
        Path | None, typer.Option("--for", metavar="FILE", help="Check that it fits these weights.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="RECIPE", help="Check that it fits this recipe's label space.")
    ] = None,
    mask_format: shared.MaskFormat = "auto",
    photos: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Photos to measure the use of style on.", rich_help_panel=STYLE),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="With --photos: masks to render.", show_default="example masks", rich_help_panel=STYLE
        ),
    ] = None,
    holdout: Annotated[
        str,
        typer.Option(
            metavar="RECIPE", help="With --photos: only the names that a recipe holds out.", rich_help_panel=STYLE
        ),
    ] = "",
    quiet: Quiet = False,
    verbose: Verbose = 0,
    as_json: AsJson = False,
) -> None:
    """Show what is in a mask, a folder, a recipe, weights or an .h5 file, and what is wrong with it.

    Example: spade inspect masks/

    With --for or --recipe, everything that does not fit is listed, with exit code 2.
    """
    from ..commands.inspect import command

    ui = UI(quiet, verbose, as_json)
    found = command.inspect(command.InspectOptions(path, weights, recipe, mask_format, photos, masks, holdout), ui)
    lines = [f"{key}: {value}" for key, value in _flat(_in_order(found.facts))]
    if found.fits:
        lines.append(f"fits {found.fits}")
    ui.result(asdict(found), [f"{found.path}: {found.kind}", *lines], (_table(found.rows),) if found.rows else ())


def _in_order(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts with the style last, where a reader sees it, and only the first of many latent dimensions."""
    if "style" not in facts:
        return facts
    from ..commands.styles.usage import style_in_short

    return {**{k: v for k, v in facts.items() if k != "style"}, "style": style_in_short(facts["style"])}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif value not in ("", None, []):
            yield prefix + key, _in_short(value) if isinstance(value, list) else str(value)


def _in_short(values: list[Any]) -> str:
    """A list in a line: mappings as "key value" each, and no more than the first MAX_SHOWN."""
    shown = [" ".join(f"{k} {v}" for k, v in x.items()) if isinstance(x, Mapping) else str(x) for x in values]
    more = [f"{len(values) - MAX_SHOWN:,} more"] if len(values) > MAX_SHOWN else []
    return ", ".join(shown[:MAX_SHOWN] + more)


def _table(rows: tuple[dict[str, Any], ...]) -> Table:
    table = Table(box=None)
    for key in rows[0]:
        table.add_column(key, justify="left" if key == "name" else "right")
    for row in rows:
        table.add_row(*(f"{v:,}" if isinstance(v, int) else str(v) for v in row.values()))
    return table
