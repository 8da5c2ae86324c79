"""``spade compare``: a blind comparison of two folders of renders."""

from .command import CompareOptions as CompareOptions
from .command import CompareResult as CompareResult
from .command import compare as compare
from .tally import Tally as Tally
from .tally import tally as tally

__all__ = ["CompareOptions", "CompareResult", "Tally", "compare", "tally"]
