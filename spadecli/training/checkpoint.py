"""state.pt: everything a run needs to resume, written atomically."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..core.errors import UserError
from ..store.atomic import part_file
from .step import Trainer


def save_state(path: Path, trainer: Trainer, step: int, seconds: float, stage: int = 1) -> None:
    """Write state.pt: the trainer's state, its stage (from 1), the step and the seconds spent so far."""
    state = {"format": "spade-state", "step": step, "stage": stage, "seconds": seconds, "trainer": trainer.state_dict()}
    with part_file(path) as part:
        torch.save(state, part)


def stage_of(state: Mapping[str, Any]) -> int:
    """Return the number of the stage (from 1) that the trainer of a state is of."""
    return int(state.get("stage", 1))  # runs that began before there were stages have a single one


def restore(path: Path, state: Mapping[str, Any], trainer: Trainer) -> tuple[int, float]:
    """Restore a trainer of the same stage from what :func:`read_state` read from ``path``.

    Returns its step and the seconds spent so far. Raises UserError on damage.
    """
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
