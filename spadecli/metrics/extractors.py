"""Feature networks: TorchScript extractors, including the FID Inception."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..compute.devices import exact_math, pick_device
from ..core.errors import UserError
from ..store import h5

if TYPE_CHECKING:
    import torch

INCEPTION_DIMENSIONS = 2048


class FeatureNetwork(Protocol):
    """A network from pictures to features, and the names of distances in these features."""

    @property
    def name(self) -> str:
        """The name of the network."""

    @property
    def kind(self) -> str:
        """The calling convention; features of one file by two conventions are cached apart."""

    @property
    def sha256(self) -> str:
        """SHA-256 of the network's file."""

    @property
    def dimensions(self) -> int:
        """D, the length of a feature vector."""

    @property
    def frechet_name(self) -> str:
        """The name of a Fréchet distance in these features."""

    @property
    def kernel_name(self) -> str:
        """The name of a kernel distance in these features."""

    def __call__(self, pictures: NDArray[Any]) -> NDArray[np.float32]:
        """Compute features float32 [N,D] of pictures [N,H,W,3] in 0..255."""


@dataclass(frozen=True)
class Extractor:
    """A TorchScript network from pictures to features.

    Plain extractors are called ``module(uint8 [N,3,H,W] in 0..255) -> [N,D]``. The FID Inception is NVIDIA's file:
    ``module(uint8 [N,3,H,W], return_features=True) -> [N,2048]``. Both resize internally. Pictures in float32 have been
    resized already: the Inception's ``layers`` take them as (x - 128) / 128.
    """

    module: Any
    path: Path
    sha256: str
    dimensions: int
    inception: bool
    device: torch.device

    @property
    def name(self) -> str:
        """The file's name without suffixes, or "FID Inception"."""
        return "FID Inception" if self.inception else self.path.name.split(".")[0]

    @property
    def kind(self) -> str:
        """The calling convention of the network."""
        return "inception" if self.inception else "plain"

    @property
    def frechet_name(self) -> str:
        """The name of a Fréchet distance in these features; FID is reserved for the FID Inception."""
        return "FID" if self.inception else f"Fréchet distance ({self.name})"

    @property
    def kernel_name(self) -> str:
        """The name of a kernel distance in these features; KID is reserved for the FID Inception."""
        return "KID" if self.inception else f"kernel distance ({self.name})"

    def __call__(self, pictures: NDArray[Any]) -> NDArray[np.float32]:
        """Compute features float32 [N,D] of pictures uint8 or float32 [N,H,W,3] in 0..255.

        Raises UserError if the network fails on them or returns another shape.
        """
        features = _features(self.module, pictures, self.inception, self.device)
        if features.shape != (len(pictures), self.dimensions):
            expected = [len(pictures), self.dimensions]
            raise UserError(f"{self.path}: returned shape {list(features.shape)}, expected {expected}")
        return features


def open_extractor(path: Path, inception: bool = False, device: str = "auto") -> Extractor:
    """Open a TorchScript extractor; with ``inception`` it must be the FID Inception.

    Raises UserError if the file is missing, is not TorchScript, or does not return features [N,D]; BackendUnavailable
    if there is no such device.
    """
    import torch

    if not path.is_file():
        raise UserError(f"{path}: no such extractor file")
    target = pick_device(device)
    try:
        jit: Any = torch.jit  # only partly typed
        module = jit.load(str(path), map_location=target).eval()
    except (RuntimeError, ValueError) as e:
        line = str(e).strip().splitlines()[0]
        raise UserError(f"{path}: not a TorchScript file ({line})", hint="save it with torch.jit.save") from e
    if inception and not _has_argument(module, "return_features"):
        raise UserError(
            f"{path}: not the FID Inception: its forward has no argument return_features",
            hint="give other extractors with --extractor; their distance is not called FID",
        )
    probe = np.random.RandomState(0).randint(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    try:
        shape = _features(module, probe, inception, target).shape
    except UserError as e:
        raise UserError(f"{path}: {e.message}") from e
    if len(shape) != 2 or shape[0] != 2 or not shape[1]:
        raise UserError(f"{path}: returned shape {list(shape)} for pictures [2,3,64,64], expected features [2,D]")
    if inception and shape[1] != INCEPTION_DIMENSIONS:
        raise UserError(f"{path}: not the FID Inception: {shape[1]} features instead of {INCEPTION_DIMENSIONS}")
    return Extractor(module, path, h5.file_sha256(path), shape[1], inception, target)


def _has_argument(module: Any, name: str) -> bool:
    return any(argument.name == name for argument in module.forward.schema.arguments)


def _features(module: Any, pictures: NDArray[Any], inception: bool, device: torch.device) -> NDArray[np.float32]:
    """Call the network in full float32 precision, and return its output without checking the shape."""
    import torch

    batch = torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).to(device)
    options = {"return_features": True} if inception else {}
    if inception and batch.is_floating_point():
        if not hasattr(module, "layers"):
            raise UserError("this Inception has no submodule layers, which is needed for resized pictures")
        module, options, batch = module.layers, {}, (batch - 128) / 128
    jit: Any = torch.jit  # only partly typed
    try:
        with torch.inference_mode(), exact_math(), jit.optimized_execution(False):
            answer = module(batch, **options)
    except RuntimeError as e:
        line = str(e).strip().splitlines()[-1]
        kind = "float32" if batch.is_floating_point() else "uint8"
        raise UserError(f"the extractor fails on pictures {kind} {list(batch.shape)}: {line}") from e
    if not isinstance(answer, torch.Tensor):
        raise UserError(f"the extractor returns {type(answer).__name__} instead of a tensor [N,D]")
    if inception:
        answer = answer.flatten(1)  # the layers alone may end in [N,2048,1,1]
    features: NDArray[np.float32] = answer.float().cpu().numpy()
    return features
