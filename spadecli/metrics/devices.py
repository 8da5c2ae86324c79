"""Where measuring networks run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.errors import BackendUnavailable, UserError

if TYPE_CHECKING:
    import torch


def pick_device(name: str) -> torch.device:
    """ "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:N" to a device that exists.

    Raises UserError for another name, BackendUnavailable where there is no such device.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise UserError(f"device {name!r}: expected auto, cpu, cuda or cuda:N") from e
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device {name!r}: expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BackendUnavailable(f"device {name!r}: this torch sees no such CUDA device", hint="use --device cpu")
    return device
