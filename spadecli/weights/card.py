"""The card in the header of a weights file: architecture, label space, training and licence."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..core.architecture import Architecture
from ..core.labelspace import LabelSpace


class Card(BaseModel):
    """Header of a weights file, as JSON.

    parent: the weights it was trained or converted from. training: data, length and hardware. recipe: the resolved
    recipe. metrics: scores. The last three are free-form JSON.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["spade-weights"] = "spade-weights"
    format_version: Literal[1] = 1
    name: str = Field(min_length=1)
    architecture: Architecture
    labels: LabelSpace
    created_by: str = ""
    description: str = ""
    licence: str = ""
    parent: str = ""
    training: dict[str, Any] = Field(default_factory=dict)
    recipe: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, Any] = Field(default_factory=dict)
