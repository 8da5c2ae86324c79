"""``spade pack``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ..core.errors import PartialFailure, UserError
from ..core.sizes import Size, format_size, parse_size
from . import render_options as shared
from .help import INPUT
from .ui import UI, AsJson, DryRun, Quiet, Verbose

if TYPE_CHECKING:
    from ..commands.pack.command import PackResult


def pack(
    photos: Annotated[
        Path | None, typer.Argument(metavar="PHOTOS", help="Folder of photos.", show_default="as in the recipe")
    ] = None,
    masks: Annotated[
        Path | None, typer.Argument(metavar="MASKS", help="Folder of masks.", show_default="as in the recipe")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="RECIPE", help="A name or a TOML file.", show_default="./recipe.toml, or facades"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="File to write.", show_default="as in the recipe"),
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Size to pack at.", show_default="as in the recipe")
    ] = None,
    instances: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of instance maps, or a COCO .json.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a packed file of other content.")] = False,
    mask_format: shared.MaskFormat = "auto",
    photo_suffix: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Ending of photos, such as _leftImg8bit.png.", rich_help_panel=INPUT),
    ] = None,
    mask_suffix: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Ending of masks, such as _gtFine_labelIds.png.", rich_help_panel=INPUT),
    ] = None,
    instance_suffix: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Ending of instance maps.", rich_help_panel=INPUT)
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad pairs out (exit code 4).", rich_help_panel=INPUT)
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Pack folders of photos and masks into one file, after checking every one of them.

    Example: spade pack photos/ masks/ --recipe recipe.toml -o packed.h5

    Photos and masks are paired by relative path without suffix. All mistakes are reported at once, and then nothing is
    written.
    """
    from ..commands.pack import command

    ui = UI(quiet, verbose, as_json)
    result = command.pack(
        command.PackOptions(
            photos=photos,
            masks=masks,
            instances=instances,
            recipe=recipe,
            out=out,
            size=_size(size) if size else None,
            mask_format=mask_format,
            photo_suffix=photo_suffix,
            mask_suffix=mask_suffix,
            instance_suffix=instance_suffix,
            overwrite=overwrite,
            skip_bad=skip_bad,
            dry_run=dry_run,
        ),
        ui,
    )
    data = {**asdict(result), "path": str(result.path), "never_seen": list(result.never_seen)}
    ui.result(data, _lines(result), (_classes(result),))
    if result.skipped:
        raise PartialFailure(f"{result.path}: bad files were left out", problems=result.skipped)


def _size(text: str) -> Size:
    size = parse_size(text)
    if size == "native":
        raise UserError("--size native: a packed file has one size", hint="for example --size 286x286")
    return size


def _lines(result: PackResult) -> list[str]:
    state = "up to date" if result.up_to_date else "written" if result.written else "not written (dry run)"
    sizes = ", ".join(f"{n} at {size}" for size, n in list(result.photo_sizes.items())[:8])
    more = f", and {len(result.photo_sizes) - 8} more sizes" if len(result.photo_sizes) > 8 else ""
    instances = " with instance maps" if result.has_instances else ""
    return [
        f"photos: {sizes}{more}",
        f"{result.path}: {result.pairs} pairs{instances} at {format_size(result.size)}, {state}",
    ]


def _classes(result: PackResult) -> Table:
    table = Table("class", box=None)
    table.add_column("pixels", justify="right")
    table.add_column("share", justify="right")
    table.add_column("images", justify="right")
    total = max(1, sum(c.pixels for c in result.classes))
    for c in result.classes:
        table.add_row(c.name, f"{c.pixels:,}", f"{c.pixels / total:.2%}", f"{c.images:,}")
    return table
