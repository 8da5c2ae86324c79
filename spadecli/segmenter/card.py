"""The card of segmenter weights: what they predict, what they learned from, and how far they can be trusted."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..core.labelspace import LabelSpace

MARGIN = 0.15


class SegmenterArchitecture(BaseModel):
    """A residual U-Net.

    size: (height, width) that pictures are brought to before they are segmented.
    width: channels of the first level, at half the size; level i has ``width * multipliers[i]``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: tuple[int, int] = (256, 256)
    width: int = Field(24, ge=1, le=512)
    multipliers: tuple[int, ...] = Field((1, 2, 4, 8, 8), min_length=2, max_length=7)

    @property
    def feature_dimensions(self) -> int:
        """Length of the pooled features of a picture."""
        return self.width * self.multipliers[-1]


class SegmenterCard(BaseModel):
    """Header of a segmenter's weights file, as JSON. Free-form parts are plain JSON values.

    miou_real, miou_majority, miou_color_position: mean IoU on real photographs that nothing was fitted on, of the
    segmenter, of "always the most frequent class", and of a classifier that sees a pixel's colour and position
    only. None where no photographs were held out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["spade-segmenter"] = "spade-segmenter"
    format_version: Literal[1] = 1
    name: str = Field(min_length=1)
    architecture: SegmenterArchitecture
    labels: LabelSpace
    created_by: str = ""
    description: str = ""
    licence: str = ""
    miou_real: float | None = Field(None, ge=0, le=1)
    miou_majority: float | None = Field(None, ge=0, le=1)
    miou_color_position: float | None = Field(None, ge=0, le=1)
    training: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, Any] = Field(default_factory=dict)

    @property
    def beats_baselines(self) -> bool:
        """Whether it beats both baselines by MARGIN of mean IoU: below that, its scores of renders say little."""
        if self.miou_real is None or self.miou_majority is None or self.miou_color_position is None:
            return False
        return self.miou_real - max(self.miou_majority, self.miou_color_position) >= MARGIN
