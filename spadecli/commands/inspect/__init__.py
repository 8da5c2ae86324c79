"""``spade inspect``: what is in a file or folder, and what is wrong with it."""

from .command import Inspection as Inspection
from .command import InspectOptions as InspectOptions
from .command import inspect as inspect

__all__ = ["InspectOptions", "Inspection", "inspect"]
