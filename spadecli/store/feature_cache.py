"""Cache of computed features: HDF5 files in a folder, looked up by the pictures' content.

A folder holds the features of one extractor at one size. Each run adds files and rewrites none, so that an interrupted
run loses little and two runs do not interfere. A file that cannot be read is skipped: its features are computed again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UserError
from . import h5


class FeatureStore:
    """Features float32 [D] by the SHA-256 of the picture; ``config`` records how they were computed."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.folder, self.config = folder, config
        self._known: dict[str, NDArray[np.float32]] = {}

    def load(self, wanted: Sequence[str]) -> None:
        """Read the features of the ``wanted`` hashes, as far as they are cached."""
        missing = set(wanted) - self._known.keys()
        for path in sorted(self.folder.glob("*.h5")) if missing else ():
            missing -= self._load_file(path, missing)

    def _load_file(self, path: Path, missing: set[str]) -> set[str]:
        try:
            with h5.open_read(path, "features") as f:
                hashes = f["sha256"].asstr()[:]
                rows = [i for i, sha in enumerate(hashes) if sha in missing]
                if rows:
                    feature = f["feature"][rows[0] : rows[-1] + 1]
                    self._known.update({hashes[i]: feature[i - rows[0]] for i in rows})
        except (UserError, OSError, KeyError):
            return set()
        return {hashes[i] for i in rows}

    def add(self, names: Sequence[str], hashes: Sequence[str], features: NDArray[np.float32]) -> None:
        """Write features float32 [N,D] to a new file; ``names`` are for people who open it."""
        self._known.update(zip(hashes, features, strict=True))
        digest = h5.source_digest(zip(names, hashes, strict=True))
        with h5.create(self.folder / f"{digest[:16]}.h5", "features", self.config, digest) as f:
            h5.table(f, "feature", features.astype(np.float32))
            h5.names(f, names)
            h5.names(f, hashes, "sha256")

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._known

    def rows(self, hashes: Sequence[str]) -> NDArray[np.float32]:
        """Return the features [N,D] of known pictures, in the order of ``hashes``."""
        return np.stack([self._known[sha] for sha in hashes])
