"""The cache folder, for files that can be computed or downloaded again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return ``SPADE_CACHE``, or ``spade`` in the user's cache folder."""
    if own := os.environ.get("SPADE_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "spade"
