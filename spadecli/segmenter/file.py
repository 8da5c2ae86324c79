"""Segmenter weights: a safetensors file with a :class:`SegmenterCard` in its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ..core.errors import UserError
from ..core.schema import describe_errors
from ..core.version import VERSION
from ..store.atomic import part_file
from .card import SegmenterCard

if TYPE_CHECKING:
    from torch import Tensor

    from .network import SegmentationNet

FORMAT = "spade-segmenter"


def is_segmenter(path: Path) -> bool:
    """Whether a file is a safetensors file with a segmenter's card, from its header alone."""
    return path.is_file() and path.suffix == ".safetensors" and _header(path).get("format") == FORMAT


def read_segmenter_card(path: Path) -> SegmenterCard:
    """Read the card of segmenter weights, from the header alone and without importing torch.

    Raises UserError if the file is missing, damaged or not a segmenter's.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such segmenter file")
    header = _header(path)
    if header.get("format") != FORMAT:
        found = "generator weights" if header.get("format") == "spade-weights" else "a file without a segmenter's card"
        raise UserError(
            f"{path}: {found}; expected segmenter weights", hint="spade train-segmenter RECIPE makes segmenter weights"
        )
    try:
        return SegmenterCard.model_validate(header)
    except ValidationError as e:
        message = f"{path}: its card does not fit this version of spade ({VERSION})"
        raise UserError(message, problems=describe_errors(e, SegmenterCard)) from e


def save_segmenter(path: Path, card: SegmenterCard, state: Mapping[str, Tensor]) -> None:
    """Write a network's state and card atomically, as float16 except for batch-norm statistics."""
    import torch
    from safetensors.torch import save_file

    def stored(name: str, value: Tensor) -> Tensor:
        keep = "running_" in name
        return value.detach().cpu().to(torch.float32 if keep else torch.float16).contiguous()

    tensors = {f"segmenter.{n}": stored(n, v) for n, v in state.items() if not n.endswith("num_batches_tracked")}
    card = card.model_copy(update={"created_by": f"spade {VERSION}"})
    with part_file(path) as part:
        save_file(tensors, part, metadata={"format": "pt", "card": card.model_dump_json()})


def load_segmenter(path: Path) -> tuple[SegmenterCard, SegmentationNet]:
    """Read segmenter weights into a float32 network in evaluation mode.

    Raises UserError, which lists every tensor that is missing, left over or of the wrong shape.
    """
    from safetensors.torch import load_file

    from ..weights.file import load_folded
    from .network import SegmentationNet

    card = read_segmenter_card(path)
    net = SegmentationNet(card.architecture, card.labels.num_classes)
    state = {name.removeprefix("segmenter."): value for name, value in load_file(path).items()}
    if problems := load_folded(net, state, "segmenter."):
        raise UserError(f"{path}: the tensors do not fit the card", problems=problems)
    return card, net.eval()


def _header(path: Path) -> dict[str, Any]:
    """Read the raw card; empty if there is none. Raises UserError if the file is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as f:
            card = json.loads((f.metadata() or {}).get("card", "{}"))
    except (SafetensorError, OSError) as e:
        raise UserError(f"{path}: not a readable safetensors file ({e})") from e
    except ValueError as e:
        raise UserError(f"{path}: its card is damaged ({e})") from e
    return card if isinstance(card, dict) else {}
