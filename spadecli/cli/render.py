"""``spade render``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..core.sizes import parse_size
from . import render_options as shared
from .ui import UI, AsJson, DryRun, Quiet, Verbose


def render(
    masks: shared.Masks = Path("masks"),
    weights: Annotated[
        Path | None, typer.Option("-w", "--weights", help="Weights to render with.", show_default="shipped facades")
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for images, manifest and gallery.")] = Path(
        "renders"
    ),
    samples: Annotated[int, typer.Option(help="Images per mask, each from its own z.")] = 1,
    seed: Annotated[int, typer.Option(help="With the mask's name and the sample's number it fixes z.")] = 0,
    shared_z: Annotated[bool, typer.Option("--shared-z", help="Sample i has the same z for every mask.")] = False,
    size: shared.Size = None,
    image_format: shared.ImageFormat = "png",
    quality: shared.Quality = None,
    instances: shared.Instances = None,
    no_edges: shared.NoEdges = False,
    mask_format: shared.MaskFormat = "auto",
    batch: shared.Batch = None,
    workers: shared.Workers = None,
    device: shared.Device = "auto",
    engine: Annotated[
        Literal["off", "auto"],
        typer.Option(help="auto: build a TensorRT engine (fp16) for this GPU when first needed, and keep it."),
    ] = "off",
    plain: shared.Plain = False,
    precision: shared.Precision = "fp32",
    tile: shared.Tiled = False,
    tile_size: shared.TileSize = None,
    skip_bad: shared.SkipBad = False,
    overwrite: shared.Overwrite = False,
    h5: shared.PixelsInH5 = False,
    no_gallery: shared.NoGallery = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Render masks as photographs, resuming where an earlier call stopped.

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
