"""``spade train``: a recipe to weights."""

from .command import TrainOptions as TrainOptions
from .command import TrainResult as TrainResult
from .command import train as train

__all__ = ["TrainOptions", "TrainResult", "train"]
