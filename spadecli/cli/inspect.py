"""``spade inspect``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from .pack import MaskFormat
from .ui import UI, AsJson, DryRun, Quiet, Verbose

MAX_SHOWN = 50  # of a list, without --json


def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            help="A mask, a folder (of masks, renders, a run), a recipe, weights, ONNX, an engine or an .h5 file."
        ),
    ],
    weights: Annotated[
        Path | None, typer.Option("--for", metavar="WEIGHTS", help="Check that it fits these weights.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="Check that it fits this recipe's label space.")
    ] = None,
    mask_format: MaskFormat = "auto",
    photos: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Weights: measure on these photos how much style is used.", show_default=False
        ),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="With --photos: the masks to render.", show_default="example masks"),
    ] = None,
    holdout: Annotated[str, typer.Option(metavar="RECIPE", help="With --photos: only what it holds out.")] = "",
    quiet: Quiet = False,
    verbose: Verbose = 0,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Say what is in a mask, a folder, a recipe, weights or an .h5 file, and what is wrong with it.

    Example: spade inspect masks/

    With --for or --recipe, the exit code is 2 where something does not fit, and every misfit is listed.
    """
    from ..commands.inspect import command

    ui = UI(quiet, verbose, as_json)
    found = command.inspect(command.InspectOptions(path, weights, recipe, mask_format, photos, masks, holdout), ui)
    lines = [f"{key}: {value}" for key, value in _flat(_in_order(found.facts))]
    if found.fits:
        lines.append(f"fits {found.fits}")
    ui.result(asdict(found), [f"{found.path}: {found.kind}", *lines], (_table(found.rows),) if found.rows else ())


def _in_order(facts: dict[str, Any]) -> dict[str, Any]:
    """What was measured now comes last, where it is seen; of many latent dimensions only the first."""
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
