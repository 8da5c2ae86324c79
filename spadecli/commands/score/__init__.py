"""``spade score``: how good renders are."""

from .command import ScoreOptions as ScoreOptions
from .command import ScoreResult as ScoreResult
from .command import score as score

__all__ = ["ScoreOptions", "ScoreResult", "score"]
