"""SPADE (GauGAN) as a batch toolkit: masks in, photographs out.

Everything the command line does is a function of this package. ``import spadecli`` is light: torch is imported by the
functions that need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .core.version import VERSION

__version__ = VERSION

if TYPE_CHECKING:
    from .backends import open_backend as open_backend

__all__ = ["__version__", "open_backend"]


def __getattr__(name: str) -> Any:
    if name == "open_backend":
        from .backends import open_backend

        return open_backend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
