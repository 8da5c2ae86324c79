"""``spade stylize``: every mask in the style of one or more photos."""

from .command import StylizeOptions as StylizeOptions
from .command import StylizeResult as StylizeResult
from .command import stylize as stylize

__all__ = ["StylizeOptions", "StylizeResult", "stylize"]
