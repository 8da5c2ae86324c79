"""Files of pretrained ImageNet networks: given by the user, fetched by torch, or installed with a package."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import UserError


def cached_file(url: str) -> Path:
    """Where torch's download cache keeps what it fetched from ``url``."""
    return Path(torch.hub.get_dir(), "checkpoints", Path(url).name)


def fetch_state(url: str) -> dict[str, Any]:
    """Load a state dict from torch's download cache, fetched once from ``url``, whose file name ends in its hash.

    Raises OSError or RuntimeError if it cannot be fetched or has another hash.
    """
    with redirect_stdout(io.StringIO()):  # torch announces the download on stdout, reserved for results
        state: dict[str, Any] = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", check_hash=True, progress=False
        )
    return state


def package_file(package: str, pattern: str) -> Path | None:
    """Find a file inside an installed package, without importing it; None if there is none."""
    spec = importlib.util.find_spec(package)
    places = (spec.submodule_search_locations or []) if spec is not None else []
    return next((file for place in places for file in sorted(Path(place).glob(pattern))), None)


def read_state(path: Path, option: str) -> dict[str, Any]:
    """Read the tensors of a .pth or .safetensors file; ``option`` is what named it.

    Raises UserError if the file is missing, cannot be read, or holds no mapping of names to tensors.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file ({option})")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # a damaged or hostile file may fail anywhere in the reader
        raise UserError(
            f"{path}: not a weights file that can be read ({option})",
            hint="it must be a plain state dict, as .pth or .safetensors; download a damaged file again",
        ) from e
    if not isinstance(state, Mapping):
        raise UserError(f"{path}: not a state dict, a mapping of names to tensors ({option})")
    return dict(state)


def select_state(network: nn.Module, state: Mapping[str, Any], prefix: str = "features.") -> dict[str, Tensor]:
    """Select the entries that ``network`` has, under their names with or without ``prefix``.

    Raises KeyError, whose argument lists them, if some are missing or of another shape.
    """
    wanted = network.state_dict()
    found = {n: state.get(f"{prefix}{n}", state.get(n)) for n in wanted}
    good = {n: v for n, v in found.items() if isinstance(v, Tensor) and v.shape == wanted[n].shape}
    if bad := [f"{prefix}{n}" for n in wanted if n not in good]:
        raise KeyError(f"missing or of the wrong shape: {', '.join(bad[:5])}")
    return good
