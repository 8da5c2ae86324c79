"""The card of segmenter weights: architecture, label space, training, and accuracy on real photographs."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..core.labelspace import LabelSpace

MARGIN = 0.15


class SegmenterArchitecture(BaseModel):
    """Architecture of the segmenter, a residual U-Net.

    size: (height, width) that pictures are resized to before segmentation.
    width: base width; level i, at 1/2^(i+1) of the size, has ``width * multipliers[i]`` channels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: tuple[int, int] = (256, 256)
    width: int = Field(24, ge=1, le=512)
    multipliers: tuple[int, ...] = Field((1, 2, 4, 8, 8), min_length=2, max_length=7)

    @property
    def feature_dimensions(self) -> int:
        """Length of a picture's pooled feature vector."""
        return self.width * self.multipliers[-1]


class SegmenterCard(BaseModel):
    """Header of a segmenter's weights file, as JSON. ``training`` and ``metrics`` are free-form JSON.

    miou_real, miou_majority, miou_color_position: mean IoU on held-out real photographs of the segmenter, of always
    predicting the most frequent class, and of a classifier that sees only a pixel's colour and position. None if no
    photographs were held out.
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
        """Whether mean IoU exceeds both baselines by MARGIN; below that, its scores of renders mean little."""
        if self.miou_real is None or self.miou_majority is None or self.miou_color_position is None:
            return False
        return self.miou_real - max(self.miou_majority, self.miou_color_position) >= MARGIN
