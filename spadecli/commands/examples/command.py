"""The example masks, and renders of them: a reference photo for ``spade stylize``, a sheet for the README."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...backends import Backend, open_backend
from ...core.errors import UserError
from ...core.labelspace import LabelSpace
from ...core.recipe import find_recipe, load_recipe, shipped_weights
from ...core.report import Report, Silent
from ...core.seeds import sample_seed, sample_z
from ...data.layouts import EXAMPLES, draw
from ...data.masks import colorize
from ...data.pixels import image_bytes
from ...store.atomic import part_file
from ...weights.file import read_card

PHOTO_LAYOUT = "palazzo"
SHEET_SUFFIXES = (".jpg", ".jpeg", ".png")
SHEET_SAMPLES = 3
SHEET_MASKS_PER_ROW = 2
SHEET_TILE = 160


@dataclass(frozen=True)
class ExamplesOptions:
    """What ``spade examples`` is asked to write.

    folder: where ``masks/`` and ``photo.jpg`` go. weights: what renders the photo and the sheet.
    sheet: a picture (.jpg, .jpeg or .png) of every mask beside three renders of it, or None.
    overwrite: write files that exist again, else they are kept. dry_run: write nothing.
    """

    folder: Path = Path()
    weights: Path = field(default_factory=shipped_weights)
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

    Raises UserError where the weights are missing or are not for the example masks' label space, or where the
    sheet's suffix is of no picture; nothing is written then.
    """
    report = report or Silent()
    if options.sheet and options.sheet.suffix.lower() not in SHEET_SUFFIXES:
        raise UserError(f"--sheet {options.sheet}: expected a name that ends in {', '.join(SHEET_SUFFIXES)}")
    masks = {options.folder / "masks" / f"{name}.png": name for name in EXAMPLES}
    renders = {options.folder / "photo.jpg": photo_image}
    if options.sheet:
        renders[options.sheet] = sheet_image
    paths = (*renders, *masks)
    wanted = tuple(p for p in paths if options.overwrite or not p.exists())
    wanted_renders = [p for p in wanted if p in renders]
    if wanted_renders:
        _check_label_space(options.weights)
    if wanted_renders and not options.dry_run:
        with open_backend(options.weights) as backend:
            for path in wanted_renders:
                _save(renders[path](backend), path)
                report.note(f"wrote {path}", level=1)
    if not options.dry_run:
        for path in wanted[len(wanted_renders) :]:
            _save(mask_image(masks[path]), path)
            report.note(f"wrote {path}", level=1)
    return ExamplesResult(wanted, tuple(p for p in paths if p not in wanted))


def mask_image(name: str) -> Image.Image:
    """Palette image of the example mask ``name``: 256x256, indices 0..11, the facades recipe's colours."""
    image = Image.fromarray(draw(EXAMPLES[name]))
    image.putpalette([c for label_class in _labels().classes for c in label_class.color])
    return image


def render_example(backend: Backend, name: str, num_samples: int) -> NDArray[np.uint8]:
    """Samples of one example mask: uint8 [S,256,256,3], the same as ``spade render masks/`` makes."""
    z_dim = backend.card.architecture.z_dim
    z = np.stack([sample_z(sample_seed(0, name, i), z_dim) for i in range(num_samples)])
    images = backend.run(draw(EXAMPLES[name])[None], None, z)
    return np.stack([image_bytes(image) for image in images])


def photo_image(backend: Backend) -> Image.Image:
    """The reference photo: the first sample of one example mask."""
    return Image.fromarray(render_example(backend, PHOTO_LAYOUT, 1)[0])


def sheet_image(backend: Backend) -> Image.Image:
    """Every example mask in colour, each followed by its first samples; two masks a row, 160-pixel tiles."""
    tiles: list[NDArray[np.uint8]] = []
    for name, layout in EXAMPLES.items():
        tiles += [colorize(draw(layout), _labels()), *render_example(backend, name, SHEET_SAMPLES)]
    columns = SHEET_MASKS_PER_ROW * (1 + SHEET_SAMPLES)
    rows = -(-len(tiles) // columns)
    step = SHEET_TILE + 4
    sheet = Image.new("RGB", (columns * step - 4, rows * step - 4), "white")
    for i, tile in enumerate(tiles):
        small = Image.fromarray(tile).resize((SHEET_TILE, SHEET_TILE), Image.Resampling.LANCZOS)
        sheet.paste(small, (i % columns * step, i // columns * step))
    return sheet


def _labels() -> LabelSpace:
    return load_recipe(find_recipe("facades")).recipe.labels


def _check_label_space(weights: Path) -> None:
    needed, found = _labels().classes, read_card(weights).labels.classes
    if [(c.name, c.values) for c in found] != [(c.name, c.values) for c in needed]:
        raise UserError(
            f"{weights}: its classes are {', '.join(c.name for c in found)}; "
            f"the example masks have {', '.join(c.name for c in needed)}",
            hint="leave --weights out to use the shipped facades weights",
        )


def _save(image: Image.Image, path: Path) -> None:
    with part_file(path) as part:
        if path.suffix.lower() == ".png":
            image.save(part, format="PNG", optimize=True)
        else:
            image.save(part, format="JPEG", quality=92)
