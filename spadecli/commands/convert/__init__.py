"""``spade convert``: weights from one file format to another."""

from .command import ConvertOptions as ConvertOptions
from .command import ConvertResult as ConvertResult
from .command import convert as convert

__all__ = ["ConvertOptions", "ConvertResult", "convert"]
