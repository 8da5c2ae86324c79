"""state.pt: everything a run needs to resume, written atomically."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..core.errors import UserError
from ..store.atomic import part_file
from .step import Trainer


def save_state(path: Path, trainer: Trainer, step: int, seconds: float) -> None:
    """Write state.pt: the trainer's state, the step and the seconds spent so far."""
    with part_file(path) as part:
        torch.save({"format": "spade-state", "step": step, "seconds": seconds, "trainer": trainer.state_dict()}, part)


def load_state(path: Path, trainer: Trainer) -> tuple[int, float]:
    """Restore a trainer from state.pt; return its step and the seconds spent so far. Raises UserError on damage."""
    state = read_state(path, trainer.device)
    try:
        trainer.load_state_dict(state["trainer"])
        return int(state["step"]), float(state["seconds"])
    except Exception as e:
        raise _damaged(path, e) from e


def read_state(path: Path, device: torch.device | None = None) -> dict[str, Any]:
    """Read what :func:`save_state` wrote, tensors on ``device`` (default: the CPU). Raises UserError on damage."""
    try:
        state = torch.load(path, map_location=device or "cpu", weights_only=True)
        state["trainer"]["networks"]["discriminator"]
    except Exception as e:  # a damaged file may fail anywhere in the reader
        raise _damaged(path, e) from e
    return dict(state)


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: damaged, or of another version ({type(error).__name__})",
        hint=f"remove {path.parent} to start over",
    )
