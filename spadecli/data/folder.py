"""Folders of photos, masks, instance maps and masks of what lies outside: find the files, and pair them by name."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..core.errors import UserError
from ..core.seeds import sample_key
from .masks import INSTANCE_SUFFIXES, MASK_SUFFIXES, PHOTO_SUFFIXES

Kind = Literal["photos", "masks", "instances", "outside"]

EXPECTED: Mapping[Kind, tuple[str, ...]] = {
    "photos": PHOTO_SUFFIXES,
    "masks": MASK_SUFFIXES,
    "instances": INSTANCE_SUFFIXES,
    "outside": (".png",),
}
_PICTURES = frozenset({*PHOTO_SUFFIXES, ".gif"})


@dataclass(frozen=True)
class Item:
    """A file of a data set. ``relative``: its POSIX path within the folder; ``key``: the name it is paired by."""

    path: Path
    relative: str
    key: str


@dataclass(frozen=True)
class Pair:
    """A photo and its mask, with or without an instance map and a mask of what is outside the picture."""

    key: str
    photo: Item
    mask: Item
    instances: Item | None = None
    outside: Item | None = None

    @property
    def items(self) -> dict[Kind, Item]:
        """The two to four files."""
        items: dict[Kind, Item | None] = {
            "photos": self.photo,
            "masks": self.mask,
            "instances": self.instances,
            "outside": self.outside,
        }
        return {kind: item for kind, item in items.items() if item is not None}


@dataclass(frozen=True)
class Pairing:
    """Pairs in ascending order of key, and one line for every file without a partner."""

    pairs: tuple[Pair, ...]
    unpaired: tuple[str, ...]


def scan(folder: Path, kind: Kind = "masks", ending: str = "") -> list[Item]:
    """Find the files of a folder and its subfolders, in ascending order of key; a single file is accepted too.

    Hidden files and folders are skipped, and so are pipes and devices, on which reading would block. Links are
    followed, except in loops. Pictures of formats that cannot hold a mask are included, so that reading them reports
    why. With an ending, such as "_leftImg8bit.png", only files with this ending are found, and their keys omit it.
    Raises UserError if the folder is missing or has no such file, two files have the same key, or a name is not valid
    UTF-8.
    """
    if not folder.exists():
        raise UserError(f"{folder}: no such folder or file")
    if folder.is_file():
        paths = [folder]
        root = folder.parent
    else:
        suffixes = {*EXPECTED[kind], *(_PICTURES if kind != "photos" else ())}
        paths = [p for p in _walk(folder, frozenset()) if p.name.endswith(ending) and p.suffix.lower() in suffixes]
        root = folder
    if not paths:
        wanted = f"*{ending}" if ending else ", ".join(EXPECTED[kind])
        raise UserError(f"{folder}: no {kind} in this folder (expected {wanted})")
    items = [_item(path, path.relative_to(root).as_posix(), ending) for path in paths]
    _check_names(folder, items)
    return sorted(items, key=lambda item: item.key)


def pair(
    photos: list[Item], masks: list[Item], instances: list[Item] | None = None, outside: Collection[Item] = ()
) -> Pairing:
    """Pair files by key. With instance maps, a pair needs all three; masks of the outside may be missing."""
    outside_of = {item.key: item for item in outside}
    groups = {"photo": photos, "mask": masks, "instance map": instances}
    by_key = {what: {item.key: item for item in items} for what, items in groups.items() if items is not None}
    pairs, unpaired = [], []
    for key in sorted({key for items in by_key.values() for key in items}):
        missing = [what for what, items in by_key.items() if key not in items]
        if missing:
            first = next(items[key] for items in by_key.values() if key in items)
            unpaired.append(f"{first.path}: no {' and no '.join(missing)} of that name")
        else:
            photo, mask, *others = (items[key] for items in by_key.values())
            pairs.append(Pair(key, photo, mask, others[0] if others else None, outside_of.get(key)))
    return Pairing(tuple(pairs), tuple(unpaired))


def read_scenes(path: Path) -> dict[str, str]:
    """Read the scene category of each photo by name, from lines "NAME CATEGORY" as in ADE20K's sceneCategories.txt.

    Raises UserError if the file is missing or a line is not of this form.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file (data.scene_file)")
    scenes, problems = {}, []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        words = line.split()
        if len(words) == 2:
            scenes[words[0]] = words[1]
        elif words:
            problems.append(f"line {number}: {line.strip()!r}")
    if problems:
        raise UserError(f"{path}: lines that are not NAME CATEGORY", problems=problems)
    return scenes


def of_scenes(items: list[Item], scene_of: Mapping[str, str], wanted: Collection[str]) -> list[Item]:
    """Select the files of the wanted scene categories; "field/wild" and "field_wild" are the same.

    A file is looked up by the last part of its key; files that are not listed are dropped.
    """
    plain = {scene.replace("/", "_") for scene in wanted}
    return [i for i in items if scene_of.get(i.key.rpartition("/")[2], "").replace("/", "_") in plain]


def _walk(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        with os.scandir(folder) as entries:
            visible = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as e:
        raise UserError(f"{folder}: cannot be read ({e.strerror})") from e
    for entry in visible:
        # for a link to itself DirEntry.is_dir raises, and os.path.isdir returns False
        if os.path.isdir(entry) if entry.is_symlink() else entry.is_dir():
            yield from _walk(folder / entry.name, above | {real})
        elif os.path.isfile(entry) or not os.path.exists(entry):  # broken links too: reading them reports the problem
            yield folder / entry.name


def _item(path: Path, relative: str, ending: str) -> Item:
    stem = relative.removesuffix(ending) if ending else relative.removesuffix(path.suffix)
    return Item(path, relative, sample_key(f"{stem}.png"))


def _check_names(folder: Path, items: list[Item]) -> None:
    problems = []
    same_key = defaultdict(list)
    for item in items:
        try:
            item.relative.encode()
        except UnicodeEncodeError:
            problems.append(f"{os.fsencode(item.relative)!r}: the name is not valid UTF-8")
        else:
            same_key[item.key].append(item.relative)
    problems += [f"{', '.join(sorted(names))}: the same name" for names in same_key.values() if len(names) > 1]
    if problems:
        raise UserError(
            f"{folder}: names that are not unique or not readable",
            problems=problems,
            hint="names must differ without their suffix: rename or remove files",
        )
