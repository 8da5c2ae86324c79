"""Result of a score."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..styles.usage import StyleFindings
from .distances import Distances
from .look import Looks
from .protocol import Protocol
from .sample_diversity import Diversity
from .segmentation import Segmentation


@dataclass(frozen=True)
class ScoreResult:
    """What was measured, and the protocol, with what was not measured and why. path, report: the files written."""

    distances: tuple[Distances, ...]
    segmentation: Segmentation | None
    look: Looks | None
    diversity: Diversity | None
    lpips: Diversity | None
    style: StyleFindings | None
    protocol: Protocol
    path: Path | None
    report: Path | None

    def as_json(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        plain = asdict(self)
        plain["style"] = self.style.as_json() if self.style else None
        return {**plain, "path": str(self.path) if self.path else None, "report": str(self.report or "") or None}
