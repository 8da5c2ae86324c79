"""``spade render``: masks in, photographs out."""

from .command import RenderOptions as RenderOptions
from .command import RenderResult as RenderResult
from .command import render as render

__all__ = ["RenderOptions", "RenderResult", "render"]
