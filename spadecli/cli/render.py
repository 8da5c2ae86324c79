"""``spade render``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..core.sizes import parse_size
from . import render_options as shared
from .help import SPEED
from .ui import UI, AsJson, DryRun, Quiet, Verbose


def render(
    masks: shared.Masks = Path("masks"),
    weights: Annotated[
        Path | None,
        typer.Option("-w", "--weights", metavar="FILE", help="Weights to render with.", show_default="shipped facades"),
    ] = None,
    out: shared.Out = Path("renders"),
    samples: shared.Samples = 1,
    size: shared.Size = None,
    instances: shared.Instances = None,
    no_edges: shared.NoEdges = False,
    mask_format: shared.MaskFormat = "auto",
    skip_bad: shared.SkipBad = False,
    seed: shared.Seed = 0,
    shared_z: shared.SharedZ = False,
    image_format: shared.ImageFormat = "png",
    quality: shared.Quality = None,
    overwrite: shared.Overwrite = False,
    h5: shared.PixelsInH5 = False,
    no_gallery: shared.NoGallery = False,
    device: shared.Device = "auto",
    batch: shared.Batch = None,
    workers: shared.Workers = None,
    precision: shared.Precision = "fp32",
    engine: Annotated[
        Literal["off", "auto"],
        typer.Option(
            metavar="HOW",
            help="auto: build and keep a TensorRT engine (fp16) for this GPU.",
            rich_help_panel=SPEED,
            show_default=False,
        ),
    ] = "off",
    plain: shared.Plain = False,
    tile: shared.Tiled = False,
    tile_size: shared.TileSize = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Render masks as photographs; images that exist already are kept.

    Example: spade render masks/ --samples 4
    """
    ui = UI(quiet, verbose, as_json)
    parsed_size = parse_size(size) if size else None
    from ..commands.render import command

    options = command.RenderOptions(
        masks=masks,
        weights=weights,
        out=out,
        seed=seed,
        samples=samples,
        size=parsed_size,
        image_format="jpeg" if image_format == "jpg" else image_format,
        quality=quality,
        shared_z=shared_z,
        instances=instances,
        use_edges=not no_edges,
        mask_format=mask_format,
        batch=batch,
        workers=workers,
        device=device,
        plain=plain,
        precision=precision,
        tile=tile_size if tile_size is not None else "auto" if tile else None,
        skip_bad=skip_bad,
        overwrite=overwrite,
        pixels_in_h5=h5,
        gallery=not no_gallery,
        engine=engine,
        dry_run=dry_run,
    )
    result = command.render(options, ui)
    ui.result(result.as_json(), result.lines())
    result.raise_for_problems()
