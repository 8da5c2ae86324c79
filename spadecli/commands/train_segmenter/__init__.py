"""``spade train-segmenter``: real pairs to a segmenter that scores renders."""

from .command import TrainSegmenterResult as TrainSegmenterResult
from .command import train_segmenter as train_segmenter

__all__ = ["TrainSegmenterResult", "train_segmenter"]
