"""Pictures of styles: the reference on top of a gallery's column, and the sheet of masks by styles."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from ...core.errors import UserError
from ...store.atomic import part_file, write_bytes
from .columns import Column

SUFFIXES = (".jpg", ".jpeg", ".png")
TILE = 192
GAP = 4
MAX_TILES = 400


def check_sheet(path: Path, num_masks: int, num_styles: int) -> None:
    """Raise UserError where a sheet cannot be written under this name, or would be too large to look at."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"--sheet {path}: expected a name that ends in {', '.join(SUFFIXES)}")
    if num_masks * num_styles > MAX_TILES:
        raise UserError(
            f"--sheet {path}: {num_masks:,} masks in {num_styles:,} styles; expected at most {MAX_TILES} pictures",
            hint="the gallery shows any number",
        )


def write_references(out: Path, columns: Sequence[Column]) -> None:
    """Write each style's picture into the output folder, unless it is there: its photo, or its photos side by side."""
    for column in columns:
        path = out / column.style.picture
        if column.style.picture:
            data = column.thumbnails[0] if len(column.thumbnails) == 1 else _side_by_side(column.thumbnails)
            if not path.is_file() or path.read_bytes() != data:
                write_bytes(path, data)


def write_sheet(path: Path, columns: Sequence[Column], rows: Sequence[tuple[Path, Sequence[Path]]]) -> None:
    """Write the sheet: the references on top, each row a coloured mask and its images, in order of the columns."""
    step = TILE + GAP
    sheet = Image.new("RGB", ((1 + len(columns)) * step - GAP, (1 + len(rows)) * step - GAP), "white")
    for x, column in enumerate(columns, 1):
        if column.thumbnails[0]:
            data = column.thumbnails[0] if len(column.thumbnails) == 1 else _side_by_side(column.thumbnails)
            with Image.open(io.BytesIO(data)) as picture:
                sheet.paste(_tile(picture), (x * step, 0))
    for y, (mask, images) in enumerate(rows, 1):
        for x, file in enumerate((mask, *images)):
            with Image.open(file) as picture:
                sheet.paste(_tile(picture), (x * step, y * step))
    with part_file(path) as part:
        if path.suffix.lower() == ".png":
            sheet.save(part, format="PNG", optimize=True)
        else:
            sheet.save(part, format="JPEG", quality=92)


def _side_by_side(thumbnails: Sequence[bytes]) -> bytes:
    """Vertical strips of several pictures, cut to one square."""
    side = 256
    canvas = Image.new("RGB", (side, side))
    for i, data in enumerate(thumbnails):
        left, right = i * side // len(thumbnails), (i + 1) * side // len(thumbnails)
        with Image.open(io.BytesIO(data)) as picture:
            canvas.paste(ImageOps.fit(picture.convert("RGB"), (right - left, side)), (left, 0))
    buffer = io.BytesIO()
    canvas.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _tile(picture: Image.Image) -> Image.Image:
    return ImageOps.pad(picture.convert("RGB"), (TILE, TILE), Image.Resampling.LANCZOS, color="white")
