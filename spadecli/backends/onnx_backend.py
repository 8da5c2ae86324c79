"""The ONNX Runtime backend: runs an .onnx file from spade convert on the CPU or with CUDA."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ..compute.devices import onnxruntime_providers
from ..core.errors import BackendUnavailable, UserError
from ..core.sizes import Size
from .artifact import Part, Record, Tensors, check_fixed_size, encoder_file, expect_generator, read_onnx, require
from .base import check_photos, check_run
from .compatibility import check_encoder, check_weights, find_encoder, graph_problems, stale

if TYPE_CHECKING:
    import onnx


class OnnxBackend:
    """See :class:`spadecli.backends.base.Backend`. The image size is fixed in the file."""

    def __init__(self, record: Record, device: str, generator: bytes | str, encoder: bytes | str | None) -> None:
        self.card = record.card
        self.path = record.path
        self.fixed_size: Size | None = record.card.architecture.size
        self.weights_sha256 = record.export.weights_sha256
        self.name = f"onnxruntime {record.precision}"
        self.device, self._providers = _providers(device)
        self._generator: Any = _session(generator, self._providers, record, "generator")
        self._encoder_source, self._encoder, self._record = encoder, None, record

    def run(
        self, labels: NDArray[np.uint8], edges: NDArray[np.uint8] | None, z: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """See :meth:`spadecli.backends.base.Backend.run`."""
        if self._generator is None:
            raise self._closed()
        check_run(self.card, labels, edges, z)
        check_fixed_size(self.card, self.path, (labels.shape[1], labels.shape[2]))
        inputs: dict[str, NDArray[Any]] = {"labels": labels}
        if self.card.labels.instances:
            inputs["edges"] = np.zeros_like(labels) if edges is None else edges
        if self.card.architecture.uses_z and z is not None:
            inputs["z"] = z
        images: NDArray[np.float32] = _run(self._generator, inputs)[0]
        return images

    def encode(self, photos: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See :meth:`spadecli.backends.base.Backend.encode`."""
        if self._generator is None:
            raise self._closed()
        check_encoder(self._record, self._encoder_source is not None)
        check_photos(photos)
        if self._encoder is None:
            self._encoder = _session(self._encoder_source, self._providers, self._record, "encoder")
        mu, logvar = _run(self._encoder, {"photos": photos})
        return mu, logvar

    def _closed(self) -> UserError:
        return UserError(f"weights {self.card.name!r}: the backend is closed", hint="open_backend opens it again")

    def close(self) -> None:
        """Free the sessions."""
        self._generator = self._encoder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_file(path: Path, device: str) -> OnnxBackend:
    """Open an .onnx file; its encoder, if any, is encoder/NAME.onnx beside it.

    Raises UserError, which says why a file is stale or foreign and how to convert again.
    """
    require("onnxruntime", "onnxruntime")
    record = expect_generator(read_onnx(path))
    check_weights(record)
    encoder = find_encoder(record)
    return OnnxBackend(record, device, str(path), str(encoder.path) if encoder else None)


def open_models(record: Record, generator: onnx.ModelProto, encoder: onnx.ModelProto | None) -> OnnxBackend:
    """Open graphs in memory as a backend on the CPU."""
    require("onnxruntime", "onnxruntime")
    return OnnxBackend(
        record, "cpu", generator.SerializeToString(), encoder.SerializeToString() if encoder is not None else None
    )


def _providers(device: str) -> tuple[str, list[Any]]:
    """Return the device's name and ONNX Runtime's execution providers for it."""
    ort = require("onnxruntime", "onnxruntime")
    return onnxruntime_providers(ort, device)


def _session(source: bytes | str | None, providers: list[Any], record: Record, part: Part) -> Any:
    """Open a session, and check that its inputs and outputs fit the card."""
    ort = require("onnxruntime", "onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or 0)  # 0: one per core
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(source, options, providers=providers)
    except Exception as e:  # onnxruntime has its own exception classes
        if "NOT_IMPLEMENTED" in str(e):
            raise BackendUnavailable(
                f"{record.path}: ONNX Runtime {ort.__version__} has no {record.precision} kernels on this device",
                hint="convert again with --precision fp32 or fp16, or build an engine",
            ) from e
        raise UserError(
            f"{record.path}: ONNX Runtime cannot load it ({e})", hint=f"convert again: {record.rebuild}"
        ) from e
    told = graph_problems(record.card, part, _tensors(session.get_inputs()), _tensors(session.get_outputs()))
    if told:
        raise stale(record, [t if part == "generator" else f"{encoder_file(record.path)}: {t}" for t in told])
    if providers[0] != "CPUExecutionProvider" and "CUDAExecutionProvider" not in session.get_providers():
        raise BackendUnavailable(
            f"{record.path}: ONNX Runtime {ort.__version__} cannot use CUDA", hint="--device cpu always works"
        )
    return session


def _tensors(values: Any) -> Tensors:
    """Convert ONNX Runtime's description of inputs or outputs to that of side files."""
    return {
        v.name: (
            v.type.removeprefix("tensor(").removesuffix(")").upper(),
            tuple(n if isinstance(n, int) else -1 for n in v.shape),
        )
        for v in values
    }


def _run(session: Any, inputs: dict[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
    try:
        outputs: list[NDArray[np.float32]] = session.run(None, inputs)
    except Exception as e:
        if any(word in str(e) for word in ("Failed to allocate", "out of memory", "bad allocation")):
            raise MemoryError(str(e)) from e
        raise
    return outputs
