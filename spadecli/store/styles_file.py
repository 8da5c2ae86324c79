"""styles.h5: the style codes of photos, computed once by ``spade styles`` and looked up by the photos' content.

Datasets: ``mu`` and ``logvar`` f4 [S,Z], ``name`` and ``photo_sha256`` (text), ``thumbnail`` (bytes of a JPEG).
The root attribute ``weights_sha256`` identifies the weights whose encoder computed the codes; they are meaningless to
other weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..core.errors import UserError
from ..core.style_code import StyleCode
from . import h5


@dataclass(frozen=True, eq=False)
class StyleEntry:
    """The style code of one photo. thumbnail: the photo as a small JPEG."""

    name: str
    code: StyleCode
    photo_sha256: str
    thumbnail: bytes


@dataclass(frozen=True)
class StyleFile:
    """The contents of a styles file."""

    weights_sha256: str
    entries: tuple[StyleEntry, ...]


def read_styles(path: Path) -> StyleFile:
    """Read a styles file. Raises UserError if it is missing, damaged or of another format."""
    with h5.open_read(path, "styles") as f:
        try:
            names, hashes = f["name"].asstr()[:], f["photo_sha256"].asstr()[:]
            mu, logvar = f["mu"][:].astype(np.float32), f["logvar"][:].astype(np.float32)
            thumbnails = [bytes(t) for t in f["thumbnail"]] if "thumbnail" in f else [b""] * len(names)
            weights = str(f.attrs["weights_sha256"])
        except (KeyError, OSError, TypeError) as e:
            raise UserError(f"{path}: not a complete styles file ({e})", hint="recreate it with spade styles") from e
    rows = zip(names, mu, logvar, hashes, thumbnails, strict=True)
    entries = tuple(StyleEntry(str(n), StyleCode(m, v), str(sha), t) for n, m, v, sha, t in rows)
    return StyleFile(weights, entries)


def write_styles(
    path: Path, entries: Sequence[StyleEntry], weights_sha256: str, z_dim: int, config: Mapping[str, Any]
) -> None:
    """Write a styles file atomically."""
    digest = h5.source_digest((e.name, e.photo_sha256) for e in entries)
    with h5.create(path, "styles", config, digest) as f:
        f.attrs["weights_sha256"] = weights_sha256
        for name in ("mu", "logvar"):
            h5.table(f, name, np.array([getattr(e.code, name) for e in entries], np.float32).reshape(-1, z_dim))
        h5.names(f, (e.name for e in entries))
        h5.names(f, (e.photo_sha256 for e in entries), "photo_sha256")
        pictures = f.create_dataset("thumbnail", (len(entries),), h5py.vlen_dtype(np.uint8))
        for i, entry in enumerate(entries):
            pictures[i] = np.frombuffer(entry.thumbnail, np.uint8)
