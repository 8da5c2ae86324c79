"""The interface of every backend, and the choice of one by the file's suffix."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UserError
from ..core.recipe_files import resolve_weights, shipped_sets, shipped_weights
from ..weights.card import Card

# suffix -> module with open_file(path, device) -> Backend; imported on first use
REGISTRY = {".safetensors": "torch_backend", ".onnx": "onnx_backend", ".engine": "tensorrt_backend"}
CHOOSING = {".safetensors"}  # kinds of files whose form and precision are chosen when they are opened

Form = Literal["auto", "fast", "plain"]
Precision = Literal["fp32", "tf32", "bf16"]
TileSize = int | Literal["auto"] | None


@runtime_checkable
class Backend(Protocol):
    """A generator, with or without an encoder, ready to run. Inputs and outputs are NumPy arrays on the host.

    It is a context manager: leaving the block frees the device. Row m·S+s of a batch is sample s of mask m; what
    depends on the mask alone is computed once per mask and shared by its S samples.
    """

    name: str
    card: Card
    device: str
    weights_sha256: str
    """Of the weights file that a converted file was made from; "" if the file is the weights themselves."""
    fixed_size: tuple[int, int] | None
    """The only (height, width) of a converted file; None if any multiple of the stride will do."""

    def run(
        self,
        labels: NDArray[np.uint8],
        edges: NDArray[np.uint8] | None,
        z: NDArray[np.float32] | None,
    ) -> NDArray[np.float32]:
        """Render images float32 [M·S,3,H,W] in [-1,1].

        labels: uint8 [M,H,W], file values. edges: uint8 [M,H,W] in {0,1}, or None for zeros. z: float32 [M·S,Z];
        ignored if the latent is "map", and S is then 1.

        Raises UserError for wrong shapes, types, sizes, or values outside the label space, MemoryError if the device
        has too little memory for the batch.
        """

    def encode(self, photos: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Encode photos float32 [N,3,H,W] in [-1,1] to style codes (mu, logvar), each float32 [N,Z].

        Raises UserError if the weights have no encoder.
        """

    def close(self) -> None:
        """Free the device."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_backend(
    path: str | Path,
    device: str = "auto",
    *,
    form: Form = "auto",
    precision: Precision = "fp32",
    tile: TileSize = None,
) -> Backend:
    """Open weights with the backend for their suffix, or shipped ones by their name ("facades").

    device: "auto" (CUDA if available), "cpu", "cuda", "cuda:1".
    form: how the generator is computed. "plain": by the convolutions that were trained. "fast": the same function,
        reformulated for inference. "auto": fast on a CPU if the network has a fast form, else plain.
    precision: "fp32" is IEEE on a GPU too. "tf32" lets a GPU round the factors of products to 10 bits, "bf16" computes
        convolutions in bfloat16; both change pixels.
    tile: compute images in overlapping tiles of at most this many pixels per side, a multiple of the stride, or of a
        default size ("auto"): the same pixels up to rounding, in memory that hardly depends on the image's size.
    Raises UserError if the file is missing, of an unknown kind, or does not support these options; BackendUnavailable
    if the device or a package is missing.
    """
    path = resolve_weights(Path(path))
    if not path.is_file():
        names = ", ".join(name for name in shipped_sets() if shipped_weights(name).is_file())
        raise UserError(f"{path}: no such weights file", hint=f"give a file, or the name of shipped ones: {names}")
    if path.suffix == ".pth":
        raise UserError(f"{path}: NVlabs checkpoints must be converted first", hint=f"spade convert {path}")
    if path.suffix not in REGISTRY:
        raise UserError(f"{path}: unknown kind of weights; expected {', '.join(REGISTRY)}")
    module = importlib.import_module(f"{__package__}.{REGISTRY[path.suffix]}")
    chosen: dict[str, Any] = {} if (form, precision) == ("auto", "fp32") else {"form": form, "precision": precision}
    if chosen and path.suffix not in CHOOSING:
        raise UserError(
            f"{path}: form {form}, precision {precision}: fixed in files of this kind",
            hint=f"omit --plain and --precision, or open {' or '.join(sorted(CHOOSING))} weights",
        )
    if tile is not None and path.suffix not in CHOOSING:
        raise UserError(
            f"{path}: files of this kind render images of one size, not tiles of larger ones",
            hint=f"omit --tile, or open {' or '.join(sorted(CHOOSING))} weights",
        )
    if tile is not None:
        chosen["tile"] = tile
    backend: Backend = module.open_file(path, device, **chosen)
    return backend


def check_run(
    card: Card, labels: NDArray[np.uint8], edges: NDArray[np.uint8] | None, z: NDArray[np.float32] | None
) -> None:
    """Raise UserError for inputs that do not fit the card, with what was found and what was expected."""
    arch = card.architecture
    if labels.dtype != np.uint8 or labels.ndim != 3:
        raise UserError(f"labels are {labels.dtype} {list(labels.shape)}; expected uint8 [M,H,W]")
    if not len(labels):
        raise UserError(f"labels are {list(labels.shape)}: no masks; at least one is needed")
    check_size((labels.shape[1], labels.shape[2]), card)
    known = card.labels.code_to_channel >= 0
    if bad := [(v, n) for v, n in enumerate(np.bincount(labels.ravel(), minlength=256).tolist()) if n and not known[v]]:
        shown = ", ".join(f"{v} ({n} pixels)" for v, n in bad[:8])
        raise UserError(f"labels hold values outside the label space {card.labels.name!r}: {shown}")
    if edges is not None:
        if edges.dtype != np.uint8 or edges.shape != labels.shape:
            raise UserError(f"edges are {edges.dtype} {list(edges.shape)}; expected uint8 {list(labels.shape)}")
        if not card.labels.instances:
            raise UserError(f"weights {card.name!r} have no edge channel; pass edges=None")
        if edges.size and edges.max() > 1:
            raise UserError(f"edges hold {edges.max()}; expected 0 or 1")
    if not arch.uses_z:
        return
    rows = 0 if z is None else len(z)
    if z is None or z.dtype != np.float32 or z.ndim != 2 or z.shape[1] != arch.z_dim or rows % len(labels):
        found = "None" if z is None else f"{z.dtype} {list(z.shape)}"
        raise UserError(f"z is {found}; expected float32 [M·S,{arch.z_dim}] with M = {len(labels)} masks")
    if not rows:
        raise UserError("z has no rows: at least one sample per mask is needed")
    if bad_rows := np.flatnonzero(~np.isfinite(z).all(1)).tolist():
        shown = ", ".join(map(str, bad_rows[:8])) + ("..." if len(bad_rows) > 8 else "")
        raise UserError(f"z holds values that are not finite, in {len(bad_rows)} of {rows} rows: {shown}")


def check_size(size: tuple[int, int], card: Card) -> None:
    """Raise UserError if a (height, width) is not a multiple of the stride; the hint gives the nearest that is."""
    stride = card.architecture.stride
    if any(s % stride or not s for s in size):
        near = "x".join(str(max(stride, round(s / stride) * stride)) for s in size)
        raise UserError(
            f"size {size[0]}x{size[1]} does not fit weights {card.name!r}: height and width must be multiples of "
            f"{stride}",
            hint=f"the nearest size that fits is {near}",
        )


def check_photos(photos: NDArray[np.float32]) -> None:
    """Raise UserError for photos that are not float32 [N,3,H,W] in [-1,1]."""
    if photos.dtype != np.float32 or photos.ndim != 4 or photos.shape[1] != 3:
        raise UserError(f"photos are {photos.dtype} {list(photos.shape)}; expected float32 [N,3,H,W] in [-1,1]")
    if not photos.size:
        raise UserError(f"photos are {list(photos.shape)}: nothing to encode; at least one is needed")
    if not np.isfinite(photos).all() or np.abs(photos).max() > 1 + 1e-6:
        raise UserError("photos hold values outside [-1,1]")
