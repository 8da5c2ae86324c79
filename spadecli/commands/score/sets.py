"""Which pictures are scored against which: folders, manifests, selections by name, draws for the floor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ...core.errors import UserError
from ...core.sizes import format_size
from ...data.files import read_image
from ...data.folder import Item, scan
from ...data.masks import check_is_photo
from ...store.h5 import file_sha256
from ...store.manifest import NAME as MANIFEST_NAME
from ...store.manifest import Row, read_manifest

Samples = Literal["first", "all"]


def renders_in(folder: Path, samples: Samples) -> list[Item]:
    """The renders of a folder: by its manifest if it has one, else every picture in it; the key is the mask's.

    ``samples`` "first" takes one render of each mask: sample 0, of several styles the one rendered
    first. "all" takes every one; without a manifest samples cannot be told apart, and every picture counts.
    Raises UserError that lists every file that the manifest names and the folder lacks.
    """
    if not (folder / MANIFEST_NAME).is_file():
        return scan(folder, "photos")
    taken: Sequence[Row] = list(read_manifest(folder / MANIFEST_NAME).images.values())
    if samples == "first":
        taken = list({row["mask"]: row for row in reversed(taken) if row["sample"] == 0}.values())
    renders = sorted((Item(folder / row["file"], row["file"], row["mask"]) for row in taken), key=lambda r: r.relative)
    missing = [f"{r.path}: in the manifest, but not in the folder" for r in renders if not r.path.is_file()]
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} renders are missing", problems=missing, hint="run the same spade render again"
        )
    if not renders:
        raise UserError(f"{folder / MANIFEST_NAME}: no renders in it", hint="run spade render first")
    return renders


def styles_of(folder: Path) -> dict[str, str]:
    """The style of each render by its path below the folder; empty without a manifest or styles."""
    journal = read_manifest(folder / MANIFEST_NAME)
    return {row["file"]: journal.styles[row["style"]]["name"] for row in journal.images.values() if row.get("style")}


def weights_of(folder: Path) -> tuple[str, str]:
    """File name and SHA-256 of the weights that the manifest says made the renders; empty if unknown."""
    options = read_manifest(folder / MANIFEST_NAME).newest_options
    return (str(options["weights"]), str(options["weights_sha256"])) if options else ("", "")


def check_are_photos(pictures: Sequence[Item]) -> None:
    """Raise UserError if the first picture is a label map: scores against masks look like scores."""
    for picture in pictures[:1]:
        check_is_photo(picture.path)


def select(pictures: Sequence[Item], names: Sequence[str], what: str) -> list[Item]:
    """The pictures whose key is in ``names``; all of them where ``names`` is empty.

    Raises UserError that lists every name without a picture; ``what`` names the set.
    """
    if not names:
        return list(pictures)
    missing = sorted(set(names) - {p.key for p in pictures})
    if missing:
        raise UserError(
            f"{what}: {len(missing)} of {len(set(names))} names have no picture",
            problems=missing,
            hint="names are paths below the folder without suffix",
        )
    return [p for p in pictures if p.key in set(names)]


def without(pictures: Sequence[Item], taken: Sequence[Item]) -> list[Item]:
    """The pictures that are not among ``taken``, neither as the same file nor as a copy of it."""
    paths = {p.path.resolve() for p in taken}
    others = [p for p in pictures if p.path.resolve() not in paths]
    sizes = {p.path.stat().st_size for p in taken}
    suspects = [p for p in others if p.path.stat().st_size in sizes]  # only these can be copies
    hashes = {file_sha256(p.path) for p in taken} if suspects else set()
    copies = {p.path for p in suspects if file_sha256(p.path) in hashes}
    return [p for p in others if p.path not in copies]


def sizes_of(pictures: Sequence[Item]) -> Counter[tuple[int, int]]:
    """How many pictures have each size (height, width).

    Raises UserError that lists every file that is no readable picture.
    """
    sizes: Counter[tuple[int, int]] = Counter()
    problems = []
    for picture in pictures:
        try:
            width, height = read_image(picture.path, lambda image: np.array(image.size))
            sizes[int(height), int(width)] += 1
        except UserError as e:
            problems.append(e.line)
    if problems:
        raise UserError(f"{len(problems)} of {len(pictures)} pictures cannot be read", problems=problems)
    return sizes


def common_size(sizes: Counter[tuple[int, int]], folder: Path) -> tuple[int, int]:
    """The one size of a set. Raises UserError that lists the sizes if there are several."""
    if len(sizes) > 1:
        problems = [f"{format_size(size)}: {n} pictures" for size, n in sizes.most_common()]
        raise UserError(
            f"{folder}: pictures of {len(sizes)} sizes",
            problems=problems,
            hint="say with --size HEIGHTxWIDTH at which size to compare",
        )
    return next(iter(sizes))


def newest_renders(root: Path = Path()) -> Path:
    """The folder below ``root`` that was rendered to last: ``renders`` or any other with a manifest in it.

    Raises UserError if there is none.
    """
    manifests = [p for p in root.glob(f"*/{MANIFEST_NAME}") if p.is_file()]
    if manifests:
        return max(manifests, key=lambda p: p.stat().st_mtime).parent
    if (root / "renders").is_dir():
        return root / "renders"
    raise UserError(
        "no renders in this folder: nothing here holds a manifest.jsonl",
        hint="spade render masks/ --samples 4 makes some; or name a folder: spade score RENDERS",
    )


def stem(picture: Item) -> str:
    """A picture's path below its folder without suffix: "a/b_0"."""
    return str(Path(picture.relative).with_suffix("").as_posix())
