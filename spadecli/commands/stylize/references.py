"""What --ref and --mix name: photos, folders of photos, entries of styles files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import UserError, refuse
from ...store.styles_file import StyleEntry, read_styles
from ..styles.encode import photos_in

DEFAULT = Path("photo.jpg")


@dataclass(frozen=True)
class Reference:
    """One style that was named: a photo, or an entry of a styles file. ``text`` is what named it.

    name: that of the folder its images go to, so without "/", which photos in subfolders have in theirs.
    """

    name: str
    text: str
    photo: Path | None = None
    entry: StyleEntry | None = None


@dataclass(frozen=True)
class Mix:
    """References and their weights, from "a.jpg:0.3,b.jpg:0.7"."""

    text: str
    parts: tuple[tuple[Reference, float], ...]


def resolve(texts: Sequence[str], weights_sha256: str, flag: str = "--ref") -> list[Reference]:
    """The references that texts name, in order: FILE, FOLDER, STYLES.h5 (all of it) or STYLES.h5#NAME.

    Raises UserError that lists every text that names nothing.
    """
    found: list[Reference] = []
    problems: list[str] = []
    hint = ""
    for text in texts:
        try:
            found += _resolve(text, weights_sha256)
        except UserError as e:
            problems.append(f"{flag} {e.line}")
            hint = hint or e.hint
    refuse(problems, f"{len(problems)} references cannot be used", hint)
    return found


def default_reference() -> str:
    """The reference without --ref. Raises UserError if it does not exist."""
    if not DEFAULT.is_file():
        raise UserError(
            f"no --ref, and no {DEFAULT} in this folder: a style needs a photo",
            hint=f"spade stylize masks/ --ref PHOTO, or spade examples, which makes {DEFAULT} and masks to try",
        )
    return str(DEFAULT)


def parse_mix(text: str, weights_sha256: str) -> Mix:
    """ "a.jpg:0.3,b.jpg:0.7": weights relative to their sum; 1 if there is none. Names may hold commas themselves.

    Raises UserError on anything else, and if a part is more than one style.
    """
    pieces, parts = text.split(","), list[tuple[Reference, float]]()
    while pieces:
        part, used = _first_part(pieces, text, weights_sha256)
        parts.append(part)
        pieces = pieces[used:]
    if len(parts) < 2:
        raise UserError(f"--mix {text}: one style is no mix", hint="--mix a.jpg:0.3,b.jpg:0.7")
    if not sum(weight for _, weight in parts) > 0:
        raise UserError(f"--mix {text}: the weights add up to 0 or less")
    return Mix(text, tuple(parts))


def _first_part(pieces: Sequence[str], text: str, weights_sha256: str) -> tuple[tuple[Reference, float], int]:
    """The first style of a mix, and how many of the pieces between commas name it: as few as possible."""
    first_error = None
    for used in range(1, len(pieces) + 1):
        try:
            name, weight = _name_and_weight(",".join(pieces[:used]).strip())
            references = resolve([name], weights_sha256, "--mix")
            if len(references) == 1:
                return (references[0], weight), used
            raise UserError(f"--mix {text}: {name} is {len(references)} styles; a part of a mix is one")
        except UserError as e:
            first_error = first_error or e
    assert first_error is not None
    raise first_error


def unique(references: Sequence[Reference]) -> list[Reference]:
    """Without what was named twice. Raises UserError that lists different references of one name."""
    by_name: dict[str, Reference] = {}
    clashes: dict[str, list[str]] = {}
    for r in references:
        first = by_name.setdefault(r.name.casefold(), r)
        if not _same(first, r):
            clashes.setdefault(r.name, [first.text]).append(r.text)
    if clashes:
        raise UserError(
            "references of one name would share a folder",
            problems=[f"{name}: {', '.join(texts)}" for name, texts in clashes.items()],
            hint="rename one of them, or encode them with spade styles under their folders' names",
        )
    return list(by_name.values())


def _same(a: Reference, b: Reference) -> bool:
    if a.photo and b.photo:
        return a.photo.resolve() == b.photo.resolve()
    return bool(a.entry and b.entry and a.entry.photo_sha256 == b.entry.photo_sha256)


def _resolve(text: str, weights_sha256: str) -> list[Reference]:
    path = Path(text)
    if path.is_dir():
        return [Reference(_flat(item.key), str(item.path), item.path) for item in photos_in(path)]
    file, hash_sign, name = text.rpartition("#")
    if path.suffix.lower() == ".h5":
        return _from_file(path, "", weights_sha256)
    if hash_sign and file.lower().endswith(".h5") and not path.exists():
        return _from_file(Path(file), name, weights_sha256)
    if not path.is_file():
        raise UserError(f"{text}: no such photo or folder", hint="a photo, a folder of photos, or styles.h5#NAME")
    return [Reference(path.stem, text, path)]


def _flat(name: str) -> str:
    return name.replace("/", "-")


def _from_file(path: Path, name: str, weights_sha256: str) -> list[Reference]:
    styles = read_styles(path)
    if styles.weights_sha256 != weights_sha256:
        raise UserError(
            f"{path}: styles of other weights "
            f"(sha256 {styles.weights_sha256[:12]}..., these are {weights_sha256[:12]}...)",
            hint="encode the photos again: spade styles PHOTOS -w WEIGHTS -o STYLES.h5",
        )
    entries = [e for e in styles.entries if not name or e.name == name]
    if not entries:
        names = [e.name for e in styles.entries]
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8:,} more" if len(names) > 8 else "")
        raise UserError(
            f"{path}#{name}: no style of that name" if name else f"{path}: holds no styles", hint=f"it holds {shown}"
        )
    return [Reference(_flat(e.name), f"{path}#{e.name}", entry=e) for e in entries]


def _name_and_weight(part: str) -> tuple[str, float]:
    name, colon, weight = part.rpartition(":")
    if colon:
        try:
            value = float(weight)
        except ValueError as e:
            if Path(part).exists() or "#" in weight:
                return part, 1.0
            raise UserError(f"--mix {part}: weight {weight!r} is no number, and there is no such file") from e
        if abs(value) < float("inf"):
            return name, value
    return part, 1.0
