"""Options and result of ``spade convert``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ...backends.artifact import Precision
from ...backends.profile import Profile
from ...backends.verify import Verification
from ...core.architecture import Upsampling
from ...core.sizes import Size
from ...weights.card import Card
from ...weights.published import Preset

Kind = Literal["safetensors", "onnx", "tensorrt", "tensorrt-rtx"]


@dataclass(frozen=True)
class ConvertOptions:
    """What to convert to which kind, and what an NVlabs checkpoint does not say about itself.

    to: "safetensors", or what a .safetensors becomes: "onnx", "tensorrt", "tensorrt-rtx".
    precision, size (height, width; None: the training size), verify: of those. profile, targets: of engines.
    source: ``.pth`` of NVlabs/SPADE's generator (``encoder``: its encoder) or ``.safetensors``.
    metrics: JSON file (such as ``spade score --json`` prints) that goes into the card, under its own stem.
    match_prior: folder of photographs; the moments of their style codes are folded in (see train.match_prior).
    preset: one of the published models; the other fields then only override it.
    num_classes: classes without the don't-care one; dont_care: file value 255 is one class more;
    instance: whether an edge channel follows. crop_size is the training width, aspect width / height.
    """

    source: Path
    output: Path | None = None
    encoder: Path | None = None
    half: bool = False
    metrics: tuple[Path, ...] = ()
    match_prior: Path | None = None
    overwrite: bool = False
    dry_run: bool = False
    preset: Preset | None = None
    num_classes: int | None = None
    dont_care: bool | None = None
    instance: bool | None = None
    crop_size: int | None = None
    aspect: float | None = None
    upsampling: Upsampling | None = None
    norm: str | None = None
    to: Kind = "safetensors"
    precision: Precision = "fp32"
    size: Size | None = None
    profile: Profile = field(default_factory=Profile)
    targets: tuple[str, ...] = ()
    verify: bool = True


@dataclass(frozen=True)
class ConvertResult:
    """The file written (or, in a dry run, that would be) and its card.

    others: files written beside it. verification: None if it was not requested or nothing was written.
    """

    path: Path
    card: Card
    parameters: int
    others: tuple[Path, ...] = ()
    verification: Verification | None = None
