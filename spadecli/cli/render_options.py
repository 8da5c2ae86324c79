"""Options that render and stylize share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Masks = Annotated[Path, typer.Argument(help="Folder of masks (searched in depth), or one mask file.")]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="HxW|native",
        help="Height and width to render at; native: each mask's own, rounded to the network's stride.",
        show_default="the training size",
    ),
]
ImageFormat = Annotated[Literal["png", "jpeg", "jpg", "webp"], typer.Option("--format", help="Kind of image files.")]
Quality = Annotated[int | None, typer.Option(help="1 to 100, for jpeg and webp.", show_default="92")]
Instances = Annotated[
    Path | None, typer.Option(help="Folder of instance maps, under the masks' names.", show_default=False)
]
NoEdges = Annotated[bool, typer.Option("--no-edges", help="Feed zeros to the instance-edge channel.")]
MaskFormat = Annotated[
    Literal["auto", "index", "color"],
    typer.Option(help="Read masks by index or by colour; auto: as the file suggests."),
]
Batch = Annotated[int | None, typer.Option(help="Images per network call.", show_default="by device and size")]
Workers = Annotated[
    int | None, typer.Option(help="Threads that read, and threads that write.", show_default="the cores, up to 8")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Plain = Annotated[
    bool, typer.Option("--plain", help="Compute as the network was trained: slower, the same but for rounding.")
]
Precision = Annotated[
    Literal["fp32", "tf32", "bf16"],
    typer.Option(help="tf32 rounds products on a GPU, bf16 halves the precision (54 dB from fp32)."),
]
Tiled = Annotated[
    bool, typer.Option("--tile", help="Compute in overlapping tiles: large images in little memory, same pixels.")
]
TileSize = Annotated[
    int | None,
    typer.Option("--tile-size", metavar="N", help="Pixels a side of a tile; implies --tile.", show_default="512"),
]
SkipBad = Annotated[
    bool,
    typer.Option(
        "--skip-bad",
        help="Leave bad masks out and list them at the end (exit code 4). Saves the check of all masks up front.",
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace images made with other options, weights or masks.")
]
PixelsInH5 = Annotated[bool, typer.Option("--h5", help="Put the pixels into renders.h5 too.")]
NoGallery = Annotated[bool, typer.Option("--no-gallery", help="Write no index.html.")]
