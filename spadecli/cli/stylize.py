"""``spade stylize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.sizes import parse_size
from . import render_options as shared
from .help import INPUT, OUTPUT, SAMPLING
from .ui import UI, AsJson, DryRun, Quiet, Verbose


def stylize(
    masks: shared.Masks = Path("masks"),
    ref: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PHOTO",
            help="Photo, folder, or styles.h5[#NAME]. Repeatable.",
            show_default="photo.jpg",
        ),
    ] = None,
    mix: Annotated[
        list[str] | None, typer.Option(metavar="A:0.3,B:0.7", help="A weighted mean of styles. Repeatable.")
    ] = None,
    samples: shared.Samples = 1,
    out: shared.Out = Path("stylized"),
    size: shared.Size = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "-w",
            "--weights",
            metavar="FILE",
            help="Weights with an encoder.",
            show_default="shipped facades",
            rich_help_panel=INPUT,
        ),
    ] = None,
    instances: shared.Instances = None,
    no_edges: shared.NoEdges = False,
    mask_format: shared.MaskFormat = "auto",
    skip_bad: shared.SkipBad = False,
    interpolate: Annotated[
        int,
        typer.Option(
            metavar="N", help="N styles between each --ref and the next.", show_default=False, rich_help_panel=SAMPLING
        ),
    ] = 0,
    spherical: Annotated[
        bool, typer.Option("--spherical", help="Interpolate two styles along the sphere.", rich_help_panel=SAMPLING)
    ] = False,
    strength: Annotated[
        float,
        typer.Option(
            metavar="X", help="Multiplies the style: 0 ignores, above 1 exaggerates it.", rich_help_panel=SAMPLING
        ),
    ] = 1.0,
    noise: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Times the style's own deviation.",
            show_default="0, or 1 with --samples",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    seed: shared.Seed = 0,
    shared_z: shared.SharedZ = False,
    image_format: shared.ImageFormat = "png",
    quality: shared.Quality = None,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also a JPEG or PNG of the masks by the styles.", rich_help_panel=OUTPUT),
    ] = None,
    overwrite: shared.Overwrite = False,
    h5: shared.PixelsInH5 = False,
    no_gallery: shared.NoGallery = False,
    device: shared.Device = "auto",
    batch: shared.Batch = None,
    workers: shared.Workers = None,
    precision: shared.Precision = "fp32",
    plain: shared.Plain = False,
    tile: shared.Tiled = False,
    tile_size: shared.TileSize = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Render masks in the style of a photo: its colours and light, the masks' layout.

    Example: spade stylize masks/ --ref photo.jpg

    Images go to OUT/PHOTO/MASK_0.png; z = strength * mu + noise * sigma * eps (mu, sigma: the photo's).
    """
    ui = UI(quiet, verbose, as_json)
    parsed_size = parse_size(size) if size else None
    from ..commands.render.command import RenderOptions
    from ..commands.stylize import command

    render = RenderOptions(
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
        dry_run=dry_run,
    )
    result = command.stylize(
        command.StylizeOptions(
            render=render,
            refs=tuple(ref or ()),
            mixes=tuple(mix or ()),
            interpolate=interpolate,
            spherical=spherical,
            strength=strength,
            noise=noise,
            sheet=sheet,
        ),
        ui,
    )
    ui.result(result.as_json(), result.lines())
    result.render.raise_for_problems()
