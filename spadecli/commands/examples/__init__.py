"""``spade examples``: example masks, and renders of them."""

from .command import ExamplesOptions as ExamplesOptions
from .command import ExamplesResult as ExamplesResult
from .command import examples as examples

__all__ = ["ExamplesOptions", "ExamplesResult", "examples"]
