"""Backends: the same numbers from any artifact."""

from .base import Backend as Backend
from .base import open_backend as open_backend

__all__ = ["Backend", "open_backend"]
