"""manifest.jsonl: the journal of a render folder, one JSON row per line, only ever appended to.

Three kinds of rows. ``options``: what a run was made with, under an id. ``mask``: a rendered mask, its classes
and its coloured picture. ``image``: one image, written after its file got its name. Of two rows about the same
thing the later one holds. A row is complete when its line ends; a torn last row is ignored.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..core.errors import UserError
from .atomic import lock

NAME = "manifest.jsonl"

Row = dict[str, Any]


@dataclass
class Journal:
    """What a manifest says: options by id, masks by key, images by file (all relative POSIX names).

    num_bytes: length of the complete rows, where the next one belongs.
    """

    options: dict[str, Row] = field(default_factory=dict)
    masks: dict[str, Row] = field(default_factory=dict)
    images: dict[str, Row] = field(default_factory=dict)
    num_bytes: int = 0

    def add(self, row: Row) -> None:
        """Take in one row; kinds from newer versions are passed over."""
        match row.get("kind"):
            case "options":
                self.options.pop(row["id"], None)
                self.options[row["id"]] = row
            case "mask":
                self.masks[row["mask"]] = row
            case "image":
                self.images[row["file"]] = row

    @property
    def newest_options(self) -> Row | None:
        """The options row of the last run, or None."""
        return next(reversed(self.options.values()), None)


def read_manifest(path: Path) -> Journal:
    """Read a manifest; a missing one is empty. Raises UserError where a complete row is damaged."""
    journal = Journal()
    if not path.exists():
        return journal
    for number, line in enumerate(_complete_lines(path), 1):
        try:
            journal.add(json.loads(line))
        except (ValueError, KeyError, AttributeError, TypeError) as e:
            raise UserError(
                f"{path}: line {number} is damaged ({e})", hint="delete that line; its image is rendered again"
            ) from e
        journal.num_bytes += len(line)
    return journal


def _complete_lines(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as f:
        for line in f:
            if line.endswith(b"\n"):
                yield line


class ManifestWriter:
    """The one process that may append to a manifest: the file is locked as long as it is open.

    journal: what was read from the file before; it must still be so. A torn last row is cut off.
    restart: forget the rows that are there.
    Raises UserError where another process holds the lock or has appended in the meantime.
    """

    def __init__(self, path: Path, journal: Journal, restart: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.journal = Journal() if restart else journal
        self._turn = threading.Lock()
        self._file = open(path, "ab")  # noqa: SIM115  (open as long as the lock is held)
        try:
            lock(self._file.fileno(), _busy(path))
            if read_manifest(path).num_bytes != journal.num_bytes:
                raise _busy(path)
            self._file.truncate(self.journal.num_bytes)
        except BaseException:
            self._file.close()
            raise

    def append(self, row: Row) -> None:
        """Append one row; any thread may call. The row has reached the system when this returns."""
        line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        with self._turn:
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
        self._file.close()


def _busy(path: Path) -> UserError:
    return UserError(
        f"{path}: another spade render is writing to this folder", hint="wait for it, or give another folder with -o"
    )
