"""The example masks, and renders of them: a reference photo for ``spade stylize``, a sheet for the README."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...backends import Backend, open_backend
from ...core.errors import UserError
from ...core.recipe_files import (
    DEFAULT_SET,
    find_recipe,
    load_recipe,
    resolve_weights,
    shipped_examples,
    shipped_sets,
)
from ...core.report import Report, Silent
from ...core.seeds import sample_seed, sample_z
from ...data.masks import colorize, read_mask
from ...data.pixels import image_bytes
from ...store.atomic import part_file, write_bytes
from ...weights.file import read_card

PHOTO_MASKS = {"facades": "palazzo", "landscapes": "sunset"}
SHEET_SUFFIXES = (".jpg", ".jpeg", ".png")
SHEET_SAMPLES = 3
SHEET_MASKS_PER_ROW = 2
SHEET_TILE = 160


@dataclass(frozen=True)
class ExamplesOptions:
    """What ``spade examples`` is asked to write.

    name: the recipe whose example masks are meant. folder: where ``masks/`` and ``photo.jpg`` go.
    weights: what renders the photo and the sheet; None: those that are shipped for ``name``, or no photo.
    sheet: a picture (.jpg, .jpeg or .png) of every mask beside three renders of it, or None.
    overwrite: write files that exist again, else they are kept. dry_run: write nothing.
    """

    name: str = DEFAULT_SET
    folder: Path = Path()
    weights: Path | None = None
    sheet: Path | None = None
    overwrite: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class ExamplesResult:
    """The files ``written`` (or that would be, in a dry run), and those ``kept`` because they exist."""

    written: tuple[Path, ...]
    kept: tuple[Path, ...]


def examples(options: ExamplesOptions, report: Report | None = None) -> ExamplesResult:
    """Write the example masks (index PNG with palette, 256x256), a rendered ``photo.jpg``, and a sheet if asked.

    Raises UserError if the weights are missing or for other classes than the masks', or the sheet is neither JPEG nor
    PNG; nothing is written then.
    """
    report = report or Silent()
    if options.sheet and options.sheet.suffix.lower() not in SHEET_SUFFIXES:
        raise UserError(f"--sheet {options.sheet}: expected a name that ends in {', '.join(SHEET_SUFFIXES)}")
    if options.name not in shipped_sets():
        raise UserError(
            f"no example masks are called {options.name!r}",
            hint=f"there are {' and '.join(shipped_sets())}; -o DIR names the folder to write to",
        )
    weights = resolve_weights(options.weights or Path(options.name))
    masks = {options.folder / "masks" / shipped.name: shipped for shipped in shipped_examples(options.name).values()}
    renders = {options.folder / "photo.jpg": photo_image}
    if options.sheet:
        renders[options.sheet] = sheet_image
    if options.weights is None and not weights.is_file():
        if options.sheet:
            raise UserError(f"no weights are shipped for {options.name}", hint="--weights FILE renders the sheet")
        report.note(f"no weights are shipped for {options.name}: masks alone; --weights FILE renders photo.jpg")
        renders = {}
    paths = (*renders, *masks)
    wanted = tuple(p for p in paths if options.overwrite or not p.exists())
    wanted_renders = [p for p in wanted if p in renders]
    if wanted_renders:
        _check_label_space(weights, options.name)
    if wanted_renders and not options.dry_run:
        with open_backend(weights) as backend:
            for path in wanted_renders:
                _save(renders[path](backend, options.name), path)
                report.note(f"wrote {path}", level=1)
    if not options.dry_run:
        for path in wanted[len(wanted_renders) :]:
            write_bytes(path, masks[path].read_bytes())
            report.note(f"wrote {path}", level=1)
    return ExamplesResult(wanted, tuple(p for p in paths if p not in wanted))


def render_example(backend: Backend, mask: Path, num_samples: int) -> NDArray[np.uint8]:
    """Samples of one example mask: uint8 [S,256,256,3], the same as ``spade render masks/`` makes."""
    z_dim = backend.card.architecture.z_dim
    z = np.stack([sample_z(sample_seed(0, mask.stem, i), z_dim) for i in range(num_samples)])
    images = backend.run(read_mask(mask, backend.card.labels)[None], None, z)
    return np.stack([image_bytes(image) for image in images])


def photo_image(backend: Backend, name: str = DEFAULT_SET) -> Image.Image:
    """The reference photo: the first sample of one example mask."""
    return Image.fromarray(render_example(backend, shipped_examples(name)[PHOTO_MASKS[name]], 1)[0])


def sheet_image(backend: Backend, name: str = DEFAULT_SET) -> Image.Image:
    """Every example mask in colour, each followed by its first samples; two masks a row, 160-pixel tiles."""
    tiles: list[NDArray[np.uint8]] = []
    labels = backend.card.labels
    for path in shipped_examples(name).values():
        tiles += [colorize(read_mask(path, labels), labels), *render_example(backend, path, SHEET_SAMPLES)]
    columns = SHEET_MASKS_PER_ROW * (1 + SHEET_SAMPLES)
    rows = -(-len(tiles) // columns)
    step = SHEET_TILE + 4
    sheet = Image.new("RGB", (columns * step - 4, rows * step - 4), "white")
    for i, tile in enumerate(tiles):
        small = Image.fromarray(tile).resize((SHEET_TILE, SHEET_TILE), Image.Resampling.LANCZOS)
        sheet.paste(small, (i % columns * step, i // columns * step))
    return sheet


def _check_label_space(weights: Path, name: str) -> None:
    """Raise UserError unless the weights know every class of the example masks, by name and value."""
    wanted = load_recipe(find_recipe(name)).recipe.labels
    needed = [c for c in wanted.classes if c.name != wanted.unknown]
    found = read_card(weights).labels.classes
    if not {(c.name, c.values) for c in needed} <= {(c.name, c.values) for c in found}:
        raise UserError(
            f"{weights}: its classes are {', '.join(c.name for c in found)}; "
            f"the example masks have {', '.join(c.name for c in needed)}",
            hint=f"leave --weights out to use the shipped {name} weights",
        )


def _save(image: Image.Image, path: Path) -> None:
    with part_file(path) as part:
        if path.suffix.lower() == ".png":
            image.save(part, format="PNG", optimize=True)
        else:
            image.save(part, format="JPEG", quality=92)
