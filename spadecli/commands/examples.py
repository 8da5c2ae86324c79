"""The example masks, and one of them rendered as the reference photo for ``spade stylize``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import UserError
from ..core.recipe import find_recipe, load_recipe, shipped_weights
from ..core.report import Report, Silent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

PHOTO_LAYOUT = "palazzo"


@dataclass(frozen=True)
class ExamplesOptions:
    """``folder``: where ``masks/`` and ``photo.jpg`` go. ``weights``: what renders the photo.

    overwrite: write files that exist again, else they are kept. dry_run: write nothing.
    """

    folder: Path = Path()
    weights: Path = field(default_factory=shipped_weights)
    overwrite: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class ExamplesResult:
    """The files ``written`` (or that would be, in a dry run), and those ``kept`` because they exist."""

    written: tuple[Path, ...]
    kept: tuple[Path, ...]


def examples(options: ExamplesOptions, report: Report | None = None) -> ExamplesResult:
    """Write the example masks (index PNG with palette, 256x256) and a rendered ``photo.jpg``.

    Raises UserError where the weights are missing or are not for the example masks' label space.
    """
    from ..data.layouts import EXAMPLES

    report = report or Silent()
    masks = {options.folder / "masks" / f"{name}.png": name for name in EXAMPLES}
    photo = options.folder / "photo.jpg"
    wanted = [p for p in (photo, *masks) if options.overwrite or not p.exists()]
    kept = tuple(p for p in (photo, *masks) if p not in wanted)
    if photo in wanted:
        _check_label_space(options.weights)
    if not options.dry_run:
        for path in wanted:
            image = mask_image(masks[path]) if path in masks else _rendered_photo(options.weights)
            _save(image, path)
            report.note(f"wrote {path}", level=1)
    return ExamplesResult(tuple(wanted), kept)


def _check_label_space(weights: Path) -> None:
    from ..model.weights import read_card

    needed = load_recipe(find_recipe("facades")).recipe.labels.classes
    found = read_card(weights).labels.classes
    if [(c.name, c.values) for c in found] != [(c.name, c.values) for c in needed]:
        raise UserError(
            f"{weights}: its classes are {', '.join(c.name for c in found)}; "
            f"the example masks have {', '.join(c.name for c in needed)}",
            hint="leave --weights out to use the shipped facades weights",
        )


def mask_image(name: str) -> Image.Image:
    """Palette image of the example mask ``name``: 256x256, indices 0..11, the facades recipe's colours."""
    from PIL import Image

    from ..data.layouts import EXAMPLES, draw

    labels = load_recipe(find_recipe("facades")).recipe.labels
    image = Image.fromarray(draw(EXAMPLES[name]), mode="P")
    image.putpalette([c for label_class in labels.classes for c in label_class.color])
    return image


def _rendered_photo(weights: Path) -> Image.Image:
    from PIL import Image

    from ..backends import open_backend
    from ..core.seeds import sample_seed, sample_z
    from ..data.layouts import EXAMPLES, draw

    with open_backend(weights, device="cpu") as backend:
        z = sample_z(sample_seed(0, "photo", 0), backend.card.architecture.z_dim)
        image = backend.run(draw(EXAMPLES[PHOTO_LAYOUT])[None], None, z[None])[0]
    return Image.fromarray(_bytes(image))


def _bytes(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """float32 [3,H,W] in [-1,1] -> uint8 [H,W,3], truncated as the reference does."""
    import numpy as np

    return np.clip((image.transpose(1, 2, 0) + 1) / 2 * 255, 0, 255).astype(np.uint8)


def _save(image: Image.Image, path: Path) -> None:
    from ..store.atomic import part_file

    with part_file(path) as part:
        if path.suffix == ".jpg":
            image.save(part, format="JPEG", quality=95)
        else:
            image.save(part, format="PNG", optimize=True)
