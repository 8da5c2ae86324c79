"""``spade examples``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .ui import UI, AsJson, DryRun, Quiet, Verbose


def examples(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Set of masks: facades or landscapes.")] = "facades",
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder for masks/ and photo.jpg.")] = Path(),
    weights: Annotated[
        Path | None,
        typer.Option(
            "-w", "--weights", metavar="FILE", help="Weights that render photo.jpg.", show_default="shipped NAME"
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option("--sheet", metavar="FILE", help="Also a JPEG or PNG of each mask beside three renders."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Write the example masks to masks/ and a rendered reference picture to photo.jpg.

    Example: spade examples
    """
    from ..commands.examples.command import ExamplesOptions, examples

    options = ExamplesOptions(name, out, weights, sheet, overwrite, dry_run)
    ui = UI(quiet, verbose, as_json)
    result = examples(options, ui)
    verb = "would write" if dry_run else "wrote"
    lines = [f"{verb} {path}" for path in result.written]
    lines += [f"kept {path}; --overwrite writes it again" for path in result.kept]
    data = {"written": [str(p) for p in result.written], "kept": [str(p) for p in result.kept], "dry_run": dry_run}
    ui.result(data, lines)
