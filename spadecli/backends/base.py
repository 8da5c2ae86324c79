"""What every backend offers, and how one is chosen by the file's suffix."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..core.card import Card
from ..core.errors import UserError

# suffix -> module that has open(path, device) -> Backend; loaded when first used
REGISTRY = {".safetensors": "torch_backend"}


@runtime_checkable
class Backend(Protocol):
    """A generator (and encoder) ready to run. Host NumPy in and out, so that one suite tests every backend.

    A context manager: leaving the block frees the device. Row m·S+s of a batch is sample s of mask m; what
    depends on the mask alone is computed once per mask and shared by its S samples.
    """

    name: str
    card: Card
    device: str

    def run(
        self,
        labels: NDArray[np.uint8],
        edges: NDArray[np.uint8] | None,
        z: NDArray[np.float32] | None,
    ) -> NDArray[np.float32]:
        """Render. labels uint8 [M,H,W] as file values; edges uint8 [M,H,W] in {0,1} or None for zeros;
        z float32 [M·S,Z] (ignored where the latent is "map", where S is 1) -> float32 [M·S,3,H,W] in [-1,1].

        Raises UserError on wrong shapes, types, sizes, or values outside the label space.
        """

    def encode(self, photos: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Style codes of photos float32 [N,3,H,W] in [-1,1] -> (mu, logvar), each float32 [N,Z].

        Raises UserError where the weights have no encoder.
        """

    def close(self) -> None:
        """Free the device."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_backend(path: str | Path, device: str = "auto") -> Backend:
    """Open weights with the backend that their suffix names.

    device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1".
    Raises UserError where the file is missing or of an unknown kind, BackendUnavailable where the device or
    package is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    if path.suffix == ".pth":
        raise UserError(f"{path}: NVlabs checkpoints are imported first", hint=f"spade convert {path}")
    if path.suffix not in REGISTRY:
        raise UserError(f"{path}: unknown kind of weights; expected {', '.join(REGISTRY)}")
    module = importlib.import_module(f"{__package__}.{REGISTRY[path.suffix]}")
    backend: Backend = module.open_file(path, device)
    return backend
