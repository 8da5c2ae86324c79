"""renders.h5: names, seeds and z of every image in the manifest, on request the pixels. Never the journal."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ...core.errors import UserError
from ...core.parallel import map_in_order
from ...core.report import count
from ...core.sizes import format_size
from ...data.masks import read_photo
from ...store import h5
from ...store.manifest import Journal, Row
from .latents import latent, style_of

NAME = "renders.h5"
BLOCK = 1024


def write_archive(out: Path, journal: Journal, rows: Sequence[Row], with_pixels: bool, num_workers: int) -> Path:
    """Write OUT/renders.h5 from ``image`` rows, unless the one that is there says the same.

    Datasets: ``mask_name`` and ``file`` (text), ``sample`` i4, ``seed`` u8 (64-bit; 0 without a draw), ``z`` f4 [R,Z],
    ``style`` (text, "" without one) where any image has one, and ``image`` u1 [R,H,W,3] if with_pixels.
    Raises UserError where pixels are wanted and the images differ in size, or some are broken (all are named).
    """
    path = out / NAME
    source = h5.source_digest((row["file"], row["sha256"]) for row in rows)
    sizes = {tuple(row["size"]) for row in rows}
    if with_pixels and len(sizes) > 1:
        raise UserError(
            f"{out}: holds images of {len(sizes)} sizes, and {NAME} stores one array; the images are all there",
            hint="render into another folder, or leave --h5 out",
        )
    if _says_the_same(path, source, with_pixels):
        return path
    options = list(journal.options.values())
    with h5.create(path, "renders", {"options": options}, source) as f:
        _write_tables(f, rows, journal, z_dim=options[-1]["z_dim"] if options else 0)
        if with_pixels and rows:
            _write_pixels(f, out, rows, sizes.pop(), num_workers)
    return path


def _says_the_same(path: Path, source: str, with_pixels: bool) -> bool:
    try:
        with h5.open_read(path, "renders") as f:
            return bool(f.attrs["source_sha256"] == source) and ("image" in f) == with_pixels
    except UserError:
        return False


def _write_tables(f: h5py.File, rows: Sequence[Row], journal: Journal, z_dim: int) -> None:
    styles = {id: style_of(row) for id, row in journal.styles.items()}
    style_of_row = [styles.get(row.get("style") or "") for row in rows]
    if any(style_of_row):
        h5.names(f, (style.name if style else "" for style in style_of_row), "style")
    seeds = [None if row["seed"] is None else int(row["seed"]) for row in rows]
    h5.names(f, (row["mask"] for row in rows), "mask_name")
    h5.names(f, (row["file"] for row in rows), "file")
    h5.table(f, "sample", np.array([row["sample"] for row in rows], np.int32))
    h5.table(f, "seed", np.array([seed or 0 for seed in seeds], np.uint64))
    row_bytes = max(1, 4 * z_dim)
    chunks = (min(len(rows), max(1, 262144 // row_bytes)), z_dim) if len(rows) and z_dim else None
    z = f.create_dataset("z", (len(rows), z_dim), "f4", chunks=chunks)
    for start in range(0, len(rows) if z_dim else 0, BLOCK):
        block = zip(style_of_row[start : start + BLOCK], seeds[start : start + BLOCK], strict=True)
        z[start : start + BLOCK] = [latent(style, seed, z_dim) for style, seed in block]


def _write_pixels(f: h5py.File, out: Path, rows: Sequence[Row], size: tuple[int, ...], num_workers: int) -> None:
    images = h5.images_dataset(f, "image", (len(rows), *size, 3), "u1")
    files = (out / row["file"] for row in rows)
    problems = []
    for i, pixels in enumerate(map_in_order(partial(_read_or_tell, size=size), files, num_workers)):
        if isinstance(pixels, str):
            problems.append(pixels)
        else:
            images[i] = pixels
    if problems:
        raise UserError(
            f"{out}: {count(len(problems), 'image')} of {len(rows):,} cannot go into {NAME}",
            problems=problems,
            hint="remove them and run the same command again, which renders them again",
        )


def _read_or_tell(path: Path, size: tuple[int, ...]) -> NDArray[np.uint8] | str:
    try:
        pixels = read_photo(path)
    except UserError as e:
        return e.line
    if pixels.shape[:2] != size:
        return f"{path}: {format_size(pixels.shape[:2])}, but rendered at {format_size((size[0], size[1]))}"
    return pixels
