"""``spade styles``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import render_options as shared
from .ui import UI, AsJson, DryRun, Quiet, Verbose


def styles(
    photos: Annotated[Path, typer.Argument(metavar="PHOTOS", help="Folder of photos (with subfolders), or one photo.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FILE", help="File of styles; those in it already are reused.")
    ] = Path("styles.h5"),
    weights: Annotated[
        Path | None,
        typer.Option(
            "-w", "--weights", metavar="FILE", help="Weights with an encoder.", show_default="shipped facades"
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file of styles of other weights.")] = False,
    device: shared.Device = "auto",
    workers: shared.Workers = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Encode photos once; spade stylize then takes their styles by name.

    Example: spade styles renders/ -o styles.h5

    A style is named by its photo without suffix: spade stylize --ref styles.h5#NAME. Photos are recognised by their
    content: a renamed one is not encoded again.
    """
    ui = UI(quiet, verbose, as_json)
    from ..commands.styles import command

    options = command.StylesOptions(photos, out, weights, device, workers, overwrite, dry_run)
    result = command.styles(options, ui)
    ui.result(result.as_json(), result.lines())
