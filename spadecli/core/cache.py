"""Where things that can be made or fetched again are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """``SPADE_CACHE``, else ``spade`` in the user's cache folder."""
    if own := os.environ.get("SPADE_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "spade"
