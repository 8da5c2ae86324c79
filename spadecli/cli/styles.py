"""``spade styles``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .ui import UI, AsJson, DryRun, Quiet, Verbose


def styles(
    photos: Annotated[Path, typer.Argument(help="Folder of photos (searched in depth), or one photo.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The file of styles; what it knows is reused.")] = Path(
        "styles.h5"
    ),
    weights: Annotated[
        Path | None, typer.Option("-w", "--weights", help="Weights with an encoder.", show_default="shipped facades")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Threads that read.", show_default="the cores, up to 8")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file of styles that other weights made.")
    ] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Encode photos once; spade stylize then takes their styles by name.

    Example: spade styles renders/ -o styles.h5

    A style is named by its photo without suffix: spade stylize --ref styles.h5#NAME. Photos are told by their
    content, so that renaming one encodes nothing anew.
    """
    ui = UI(quiet, verbose, as_json)
    from ..commands.styles import command

    options = command.StylesOptions(photos, out, weights, device, workers, overwrite, dry_run)
    result = command.styles(options, ui)
    ui.result(result.as_json(), result.lines())
