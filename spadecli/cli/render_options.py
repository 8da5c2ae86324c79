"""Options that several commands share; ``spade render`` and ``spade stylize`` have most of theirs from here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .help import INPUT, OUTPUT, SAMPLING, SPEED

# of several commands
Device = Annotated[
    str, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:N.", rich_help_panel=SPEED, show_default=False)
]
Workers = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Reading and writing threads.", show_default="cores, up to 8", rich_help_panel=SPEED
    ),
]
MaskFormat = Annotated[
    Literal["auto", "index", "color"],
    typer.Option(
        "--mask-format",
        metavar="HOW",
        help="index, color, or auto: RGB files by colour.",
        rich_help_panel=INPUT,
        show_default=False,
    ),
]

# of render and stylize: shown first
Masks = Annotated[Path, typer.Argument(metavar="MASKS", help="Folder of masks, or one mask file.")]
Out = Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder for images, manifest and gallery.")]
Samples = Annotated[int, typer.Option(metavar="N", help="Images per mask (and style).")]
Size = Annotated[
    str | None,
    typer.Option(metavar="HxW", help="Image size, or native for each mask's own.", show_default="as trained"),
]

# of render and stylize: input
Instances = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Instance maps named like the masks.", rich_help_panel=INPUT)
]
NoEdges = Annotated[
    bool, typer.Option("--no-edges", help="Feed zeros to the instance-edge channel.", rich_help_panel=INPUT)
]
SkipBad = Annotated[
    bool,
    typer.Option("--skip-bad", help="Leave bad masks out, list them at the end (exit code 4).", rich_help_panel=INPUT),
]

# of render and stylize: sampling
Seed = Annotated[int, typer.Option(metavar="N", help="Same seed, same images.", rich_help_panel=SAMPLING)]
SharedZ = Annotated[
    bool, typer.Option("--shared-z", help="Sample i has the same z for every mask.", rich_help_panel=SAMPLING)
]

# of render and stylize: output
ImageFormat = Annotated[
    Literal["png", "jpeg", "jpg", "webp"],
    typer.Option("--format", metavar="KIND", help="png, jpeg or webp.", rich_help_panel=OUTPUT),
]
Quality = Annotated[
    int | None,
    typer.Option(metavar="N", help="Of jpeg and webp, 1 to 100.", show_default="92", rich_help_panel=OUTPUT),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace images of other options, weights or masks.", rich_help_panel=OUTPUT),
]
PixelsInH5 = Annotated[bool, typer.Option("--h5", help="Store the pixels in renders.h5 too.", rich_help_panel=OUTPUT)]
NoGallery = Annotated[bool, typer.Option("--no-gallery", help="Write no index.html.", rich_help_panel=OUTPUT)]

# of render and stylize: speed and memory
Batch = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Images per network call.", show_default="by device and size", rich_help_panel=SPEED
    ),
]
Plain = Annotated[
    bool,
    typer.Option("--plain", help="Compute as in training: slower, equal except for rounding.", rich_help_panel=SPEED),
]
Precision = Annotated[
    Literal["fp32", "tf32", "bf16"],
    typer.Option(metavar="NAME", help="fp32, bf16, or tf32 (GPUs alone).", rich_help_panel=SPEED),
]
Tiled = Annotated[
    bool,
    typer.Option("--tile", help="Large images in little memory, by overlapping tiles.", rich_help_panel=SPEED),
]
TileSize = Annotated[
    int | None,
    typer.Option(
        "--tile-size",
        metavar="N",
        help="Side of a tile in pixels; implies --tile.",
        show_default="512",
        rich_help_panel=SPEED,
    ),
]
