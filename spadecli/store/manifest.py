"""manifest.jsonl: the journal of a render folder, one JSON row per line, append-only.

There are four kinds of rows. ``options``: the options of a run, under an id. ``style``: a style used for images, under
an id. ``mask``: a rendered mask, its classes and its coloured picture. ``image``: one image, written after its file is
complete. A later row replaces an earlier one about the same thing. A last row without a line end is incomplete and
ignored.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt, ValidationError

from ..core.errors import UserError
from .atomic import lock

NAME = "manifest.jsonl"

Row = dict[str, Any]
_Base64 = Annotated[str, Field(pattern=r"^([A-Za-z0-9+/]{4})+([A-Za-z0-9+/]{2,3}={1,2})?$")]
_Size = Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]


class _Options(BaseModel, strict=True):
    id: str
    weights: str
    weights_sha256: str
    size: str
    edges: str
    latent: str
    z_dim: NonNegativeInt
    seed: str
    shared_z: bool


class _Style(BaseModel, strict=True):
    id: str
    name: str
    parts: list[list[str | float]]
    spherical: bool
    strength: float
    noise: float
    picture: str
    caption: str
    mu: _Base64
    logvar: _Base64


class _Mask(BaseModel, strict=True):
    mask: str
    sha256: str
    options: str
    source_size: _Size
    size: _Size
    shares: dict[str, float]
    colored: str


class _Image(BaseModel, strict=True):
    mask: str
    sample: NonNegativeInt
    seed: Annotated[str, Field(pattern=r"^[0-9]{1,20}$")] | None
    file: str
    size: _Size
    options: str
    digest: str
    sha256: str
    style: str | None = None


_FIELDS: dict[str, type[BaseModel]] = {"options": _Options, "style": _Style, "mask": _Mask, "image": _Image}


@dataclass
class Journal:
    """The contents of a manifest: options and styles by id, masks by key, images by file (relative POSIX names).

    num_bytes: length of the complete rows, where the next one is written.
    """

    options: dict[str, Row] = field(default_factory=dict)
    styles: dict[str, Row] = field(default_factory=dict)
    masks: dict[str, Row] = field(default_factory=dict)
    images: dict[str, Row] = field(default_factory=dict)
    num_bytes: int = 0

    def add(self, row: Row) -> None:
        """Add one row; kinds from newer versions are ignored.

        Raises ValueError, which names every field that is missing or of the wrong type.
        """
        kind = row.get("kind")
        if kind in _FIELDS:
            _check_fields(row, _FIELDS[kind])
        match kind:
            case "options":
                self.options.pop(row["id"], None)
                self.options[row["id"]] = row
            case "style":
                self.styles[row["id"]] = row
            case "mask":
                self.masks[row["mask"]] = row
            case "image":
                self.images[row["file"]] = row

    @property
    def newest_options(self) -> Row | None:
        """The options row of the last run, or None."""
        return next(reversed(self.options.values()), None)


def _check_fields(row: Row, fields: type[BaseModel]) -> None:
    try:
        fields.model_validate(row)
    except ValidationError as e:
        wrong = [f"{'.'.join(map(str, item['loc']))}: {item['msg'].lower()}" for item in e.errors()]
        raise ValueError("; ".join(wrong)) from e


def read_manifest(path: Path) -> Journal:
    """Read a manifest; a missing one is empty.

    Raises UserError if it cannot be read, or if complete rows are damaged; the error lists all of these.
    """
    journal = Journal()
    problems = []
    for number, line in enumerate(_complete_lines(path), 1):
        journal.num_bytes += len(line)
        try:
            journal.add(json.loads(line))
        except (ValueError, AttributeError, TypeError) as e:
            problems.append(f"line {number} is damaged ({e})")
    if problems:
        one = len(problems) == 1
        raise UserError(
            f"{path}: {problems[0] if one else f'{len(problems)} lines are damaged'}",
            problems=() if one else problems,
            hint="delete the damaged lines; images that no line names are rendered again",
        )
    return journal


def _complete_lines(path: Path) -> Iterator[bytes]:
    try:
        with open(path, "rb") as f:
            yield from (line for line in f if line.endswith(b"\n"))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror})", hint="give another folder with -o") from e


class ManifestWriter:
    """The only process that may append to a manifest: the file is locked while it is open.

    journal: the contents of the file as read before; they must not have changed since.
    restart: discard the existing rows.
    The first row that is appended cuts off an incomplete last row or, on restart, all rows; until then the file is
    unchanged. A writer that is closed without a row removes the file and the folders it created.
    Raises UserError if the file cannot be written, or if another process holds the lock or has appended in the
    meantime.
    """

    def __init__(self, path: Path, journal: Journal, restart: bool = False) -> None:
        self.journal = Journal() if restart else journal
        self._path = path
        self._turn = threading.Lock()
        self._begun = False
        try:
            self._is_new = not path.exists()
            self._new_folders = [folder for folder in path.parents if not folder.exists()]
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "ab")  # noqa: SIM115  (open as long as the lock is held)
        except OSError as e:
            raise UserError(f"{path}: cannot be written ({e.strerror})", hint="give another folder with -o") from e
        try:
            lock(self._file.fileno(), _busy(path))
            # another writer, closed without a row, may have removed the file between open and lock
            if not path.exists() or read_manifest(path).num_bytes != journal.num_bytes:
                raise _busy(path)
        except BaseException:
            self._file.close()
            raise

    def append(self, row: Row) -> None:
        """Append one row; thread-safe. The row has reached the operating system when this returns."""
        line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        with self._turn:
            if not self._begun:
                self._file.truncate(self.journal.num_bytes)
                self._begun = True
            self._file.write(line)
            self._file.flush()
            self.journal.add(row)
            self.journal.num_bytes += len(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        with suppress(OSError):  # Windows cannot remove an open file
            if self._is_new and not self._begun:
                self._path.unlink()
        self._file.close()
        if not self._begun:
            with suppress(OSError):  # folders that are no longer empty stay
                for folder in self._new_folders:
                    folder.rmdir()


def _busy(path: Path) -> UserError:
    return UserError(
        f"{path}: another spade render is writing to this folder", hint="wait for it, or give another folder with -o"
    )
