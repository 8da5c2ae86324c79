"""``spade stylize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.sizes import parse_size
from . import render_options as shared
from .ui import UI, AsJson, DryRun, Quiet, Verbose


def stylize(
    masks: shared.Masks = Path("masks"),
    ref: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PHOTO|DIR|STYLES.h5[#NAME]",
            help="Whose style: a photo, a folder of them, or entries of spade styles. Repeat for more.",
            show_default="photo.jpg",
        ),
    ] = None,
    mix: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A:0.3,B:0.7",
            help="A style between several, in these parts of their sum. Repeat for more.",
            show_default=False,
        ),
    ] = None,
    interpolate: Annotated[
        int, typer.Option(metavar="N", help="N styles between each --ref and the next.", show_default=False)
    ] = 0,
    spherical: Annotated[
        bool, typer.Option("--spherical", help="Combine two styles by turning the one to the other.")
    ] = False,
    strength: Annotated[float, typer.Option(help="Multiplies the style: 0 forgets it, above 1 exaggerates.")] = 1.0,
    noise: Annotated[
        float | None,
        typer.Option(help="Variation around the style, in its own deviation.", show_default="0; 1 with --samples"),
    ] = None,
    samples: Annotated[int, typer.Option(help="Images per mask and style, each with its own noise.")] = 1,
    seed: Annotated[int, typer.Option(help="With the mask's name and the sample's number it fixes the noise.")] = 0,
    shared_z: Annotated[bool, typer.Option("--shared-z", help="Sample i has the same noise for every mask.")] = False,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also a JPEG or PNG of the masks by the styles.", show_default=False),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("-w", "--weights", help="Weights with an encoder.", show_default="shipped facades")
    ] = None,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder for manifest, gallery, and a folder of images for each style.")
    ] = Path("stylized"),
    size: shared.Size = None,
    image_format: shared.ImageFormat = "png",
    quality: shared.Quality = None,
    instances: shared.Instances = None,
    no_edges: shared.NoEdges = False,
    mask_format: shared.MaskFormat = "auto",
    batch: shared.Batch = None,
    workers: shared.Workers = None,
    device: shared.Device = "auto",
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
    """Render masks in the style of a photo: its colours and light, the masks' layout.

    Example: spade stylize masks/ --ref photo.jpg

    Images go to OUT/PHOTO/MASK_0.png. z = strength * mu + noise * sigma * eps: mu and sigma are the photo's, eps is
    drawn by the seed.
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
