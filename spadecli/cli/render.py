"""``spade render``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..core.sizes import parse_size
from .ui import UI, AsJson, DryRun, Quiet, Verbose


def render(
    masks: Annotated[Path, typer.Argument(help="Folder of masks (searched in depth), or one mask file.")] = Path(
        "masks"
    ),
    weights: Annotated[
        Path | None, typer.Option("-w", "--weights", help="Weights to render with.", show_default="shipped facades")
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for images, manifest and gallery.")] = Path(
        "renders"
    ),
    samples: Annotated[int, typer.Option(help="Images per mask, each from its own z.")] = 1,
    seed: Annotated[int, typer.Option(help="With the mask's name and the sample's number it fixes z.")] = 0,
    shared_z: Annotated[bool, typer.Option("--shared-z", help="Sample i has the same z for every mask.")] = False,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW|native",
            help="Height and width to render at; native: each mask's own, rounded to the network's stride.",
            show_default="the training size",
        ),
    ] = None,
    image_format: Annotated[
        Literal["png", "jpeg", "jpg", "webp"], typer.Option("--format", help="Kind of image files.")
    ] = "png",
    quality: Annotated[int | None, typer.Option(help="1 to 100, for jpeg and webp.", show_default="92")] = None,
    instances: Annotated[
        Path | None, typer.Option(help="Folder of instance maps, under the masks' names.", show_default=False)
    ] = None,
    no_edges: Annotated[bool, typer.Option("--no-edges", help="Feed zeros to the instance-edge channel.")] = False,
    mask_format: Annotated[
        Literal["auto", "index", "color"],
        typer.Option(help="Read masks by index or by colour; auto: as the file suggests."),
    ] = "auto",
    batch: Annotated[
        int | None, typer.Option(help="Images per network call.", show_default="by device and size")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Threads that read, and threads that write.", show_default="the cores, up to 8")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    engine: Annotated[
        Literal["off", "auto"],
        typer.Option(help="auto: build a TensorRT engine (fp16) for this GPU when first needed, and keep it."),
    ] = "off",
    plain: Annotated[
        bool, typer.Option("--plain", help="Compute as the network was trained: slower, the same but for rounding.")
    ] = False,
    precision: Annotated[
        Literal["fp32", "bf16"], typer.Option(help="bf16: half precision, which changes pixels slightly.")
    ] = "fp32",
    tile: Annotated[
        bool, typer.Option("--tile", help="Compute in overlapping tiles: large images in little memory, same pixels.")
    ] = False,
    tile_size: Annotated[
        int | None,
        typer.Option("--tile-size", metavar="N", help="Pixels a side of a tile; implies --tile.", show_default="512"),
    ] = None,
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad",
            help="Leave bad masks out and list them at the end (exit code 4). Saves the check of all masks up front.",
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace images made with other options, weights or masks.")
    ] = False,
    h5: Annotated[bool, typer.Option("--h5", help="Put the pixels into renders.h5 too.")] = False,
    no_gallery: Annotated[bool, typer.Option("--no-gallery", help="Write no index.html.")] = False,
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
    from ..commands import render as command

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
