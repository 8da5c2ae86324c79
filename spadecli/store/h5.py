"""HDF5 files: how all of spade's are written and opened.

Every file has the root attributes ``format``, ``format_version``, ``created_by``, ``config_json``, ``source_sha256``
and ``complete``. Files are written under a temporary name and renamed when complete, because an HDF5 file may be
unreadable if the process dies while writing it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..core.errors import UserError
from ..core.version import VERSION
from .atomic import part_file

FORMAT_VERSION = 1
STR = h5py.string_dtype("utf-8")


def source_digest(files: Iterable[tuple[str, str]]) -> str:
    """Return the SHA-256 (hex) of the sorted list of (relative path, file sha256)."""
    return hashlib.sha256("".join(f"{p}\0{s}\n" for p, s in sorted(files)).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@contextmanager
def create(path: Path, kind: str, config: Mapping[str, Any], source_sha256: str = "") -> Iterator[h5py.File]:
    """Open a new file of format ``spade-<kind>`` for writing; it is renamed to ``path`` when the block succeeds."""
    with part_file(path) as part, h5py.File(part, "w", libver="latest") as f:
        f.attrs["format"] = f"spade-{kind}"
        f.attrs["format_version"] = FORMAT_VERSION
        f.attrs["created_by"] = f"spade {VERSION}"
        f.attrs["config_json"] = json.dumps(config, sort_keys=True)
        f.attrs["source_sha256"] = source_sha256
        f.attrs["complete"] = False
        yield f
        f.attrs["complete"] = True


def open_read(path: Path, kind: str | None = None) -> h5py.File:
    """Open a complete file for reading.

    Raises UserError if it is missing, damaged, incomplete, or not of format ``spade-<kind>``.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        f = h5py.File(path, "r")
    except OSError as e:
        raise UserError(f"{path}: not a readable HDF5 file ({e})", hint="create the file again") from e
    found = f.attrs.get("format", "")
    problem = ""
    if not str(found).startswith("spade-"):
        problem = "an HDF5 file, but not one of spade's"
    elif kind is not None and found != f"spade-{kind}":
        problem = f"a {found} file, where spade-{kind} is needed"
    elif int(f.attrs.get("format_version", 0)) > FORMAT_VERSION:
        problem = f"format version {f.attrs['format_version']} is newer than this spade reads ({FORMAT_VERSION})"
    elif not bool(f.attrs.get("complete", False)):
        problem = "incomplete"
    if problem:
        f.close()
        raise UserError(f"{path}: {problem}")
    return f


def config_of(f: h5py.File) -> dict[str, Any]:
    """Return the options that the file was written with."""
    config: dict[str, Any] = json.loads(str(f.attrs["config_json"]))
    return config


def images_dataset(f: h5py.File, name: str, shape: tuple[int, ...], dtype: str, gzip: bool = False) -> h5py.Dataset:
    """Create a dataset [N, ...] with one chunk per image. gzip shrinks label maps a lot, and photos hardly."""
    options: dict[str, Any] = {"compression": "gzip", "compression_opts": 4} if gzip else {}
    chunks = (1, *shape[1:]) if shape[0] else None
    return f.create_dataset(name, shape=shape, dtype=dtype, chunks=chunks, **options)


def table(f: h5py.File, name: str, rows: NDArray[Any]) -> h5py.Dataset:
    """Create a table [N, ...] in chunks of rows of about 256 KiB."""
    if not len(rows):
        return f.create_dataset(name, data=rows)
    row_bytes = max(1, rows[0].nbytes if isinstance(rows[0], np.ndarray) else rows.dtype.itemsize)
    per_chunk = int(min(len(rows), max(1, -(-262144 // row_bytes))))
    return f.create_dataset(name, data=rows, chunks=(per_chunk, *rows.shape[1:]))


def names(f: h5py.File, values: Iterable[str], name: str = "name") -> h5py.Dataset:
    """Create a column of UTF-8 strings."""
    return f.create_dataset(name, data=np.array(list(values), dtype=object), dtype=STR)
