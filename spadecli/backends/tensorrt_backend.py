"""The TensorRT backend: runs an .engine from spade convert on a CUDA GPU, with TensorRT or TensorRT for RTX.

Host memory is pinned and double-buffered: while the GPU computes one part of a batch, the previous part is copied back.
Launches are recorded once per batch shape and replayed (CUDA graphs).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ..compute.devices import pick_device
from ..core.cache import cache_dir
from ..core.errors import BackendUnavailable, UserError
from ..core.report import Silent
from ..core.sizes import Size
from ..store.atomic import write_bytes
from .artifact import Record, check_fixed_size, expect_generator, read_engine
from .base import check_photos, check_run
from .build import PHOTO_SIDES, load_runtime, make_logger
from .compatibility import check_encoder, file_problems, find_encoder, runtime_problems, side_of, stale
from .profile import Chunk, Profile

TORCH_TYPES = {"UINT8": torch.uint8, "FLOAT": torch.float32}
MAX_GRAPHS = 4  # each has its own context, with the memory of a call


class TensorRTBackend:
    """See :class:`spadecli.backends.base.Backend`. The image size is fixed; batches are split to fit the profile."""

    def __init__(self, record: Record, device: str, generator: bytes, encoder: bytes | None = None) -> None:
        self._device = gpu(device)
        self.device, self.card = str(self._device), record.card
        self.fixed_size: Size | None = record.card.architecture.size
        self.weights_sha256 = record.export.weights_sha256
        self.name = f"{side_of(record).runtime} {record.precision}"
        self._record, self._profile, self._encoder_bytes = record, side_of(record).profile, encoder
        self._generator: _Network | None = _Network(record, generator, self._device)
        self._encoder: _Network | None = None

    def run(
        self, labels: NDArray[np.uint8], edges: NDArray[np.uint8] | None, z: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """See :meth:`spadecli.backends.base.Backend.run`."""
        if self._generator is None:
            raise self._closed()
        check_run(self.card, labels, edges, z)
        check_fixed_size(self.card, self._record.path, (labels.shape[1], labels.shape[2]))
        if self.card.labels.instances and edges is None:
            edges = np.zeros_like(labels)
        if not self.card.architecture.uses_z:
            z = None
        samples = 1 if z is None else len(z) // len(labels)
        parts = split(self._profile, labels, edges if self.card.labels.instances else None, z)
        images = np.empty((len(labels), samples, 3, *labels.shape[1:]), np.float32)
        with _memory_errors():
            for chunk, outputs in self._generator.run_all(parts):
                num_masks = chunk.masks.stop - chunk.masks.start
                num_samples = chunk.samples.stop - chunk.samples.start
                grouped = outputs["images"].reshape(chunk.padded_masks, chunk.padded_samples, *images.shape[2:])
                images[chunk.masks, chunk.samples] = grouped[:num_masks, :num_samples]
        return images.reshape(-1, *images.shape[2:])

    def encode(self, photos: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See :meth:`spadecli.backends.base.Backend.encode`. Photos have 16 to 4096 pixels per side."""
        if self._generator is None:
            raise self._closed()
        check_encoder(self._record, self._encoder_bytes is not None)
        check_photos(photos)
        least, _, most = PHOTO_SIDES
        if min(photos.shape[2:]) < least or max(photos.shape[2:]) > most:
            raise UserError(
                f"photos are {photos.shape[2]}x{photos.shape[3]}; the engine takes {least} to {most} pixels per side"
            )
        if self._encoder is None:
            assert self._encoder_bytes is not None
            self._encoder = _Network(self._record, self._encoder_bytes, self._device)
        mu, logvar = (np.empty((len(photos), self.card.architecture.z_dim), np.float32) for _ in range(2))
        parts = ((i, {"photos": photos[i : i + 1]}) for i in range(len(photos)))
        with _memory_errors():
            for i, outputs in self._encoder.run_all(parts):
                mu[i], logvar[i] = outputs["mu"][0], outputs["logvar"][0]
        return mu, logvar

    def _closed(self) -> UserError:
        return UserError(f"weights {self.card.name!r}: the backend is closed", hint="open_backend opens it again")

    def close(self) -> None:
        """Save compiled kernels and free the device's memory."""
        for network in (self._generator, self._encoder):
            if network is not None:
                network.save_kernels()
        self._generator = self._encoder = None
        torch.cuda.empty_cache()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_file(path: Path, device: str) -> TensorRTBackend:
    """Open an .engine file; its encoder, if any, is encoder/NAME.engine beside it.

    Raises UserError, which says why an engine is stale or foreign and how to rebuild it.
    """
    record = expect_generator(read_engine(path))
    if problems := file_problems(record):  # first what can be checked without a runtime or a GPU
        raise stale(record, problems)
    encoder = find_encoder(record)
    version = load_runtime(side_of(record).runtime).__version__
    both = [record, encoder] if encoder else [record]
    if problems := [p for r in both for p in runtime_problems(r, version, None)]:
        raise stale(record, list(dict.fromkeys(problems)))
    if problems := runtime_problems(record, version, capability_of(gpu(device))):
        raise stale(record, problems)
    return TensorRTBackend(record, device, path.read_bytes(), encoder.path.read_bytes() if encoder else None)


def gpu(device: str) -> torch.device:
    """Return the CUDA device for "auto", "cuda" or "cuda:N". Raises BackendUnavailable if there is none."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        found = "--device cpu was given" if device == "cpu" else f"torch {torch.__version__} sees no CUDA device"
        raise BackendUnavailable(
            f"engines run on a CUDA GPU; {found}",
            hint="the .safetensors or an .onnx of the same weights runs on the CPU; spade doctor lists the devices",
        )
    picked = pick_device("cuda" if device == "auto" else device)
    return picked if picked.index is not None else torch.device("cuda", torch.cuda.current_device())


def capability_of(device: torch.device) -> str:
    """Return the compute capability, such as "8.6"."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"{major}.{minor}"


def split(
    profile: Profile, labels: NDArray[np.uint8], edges: NDArray[np.uint8] | None, z: NDArray[np.float32] | None
) -> Iterator[tuple[Chunk, dict[str, NDArray[Any]]]]:
    """Split a batch into calls within the profile; missing masks and samples are filled by repeating the last."""
    grouped = None if z is None else z.reshape(len(labels), -1, z.shape[1])
    for chunk in profile.chunks(len(labels), 1 if grouped is None else grouped.shape[1]):
        masks = np.minimum(np.arange(chunk.masks.start, chunk.masks.start + chunk.padded_masks), chunk.masks.stop - 1)
        inputs: dict[str, NDArray[Any]] = {"labels": labels[masks]}
        if edges is not None:
            inputs["edges"] = edges[masks]
        if grouped is not None:
            first, stop = chunk.samples.start, chunk.samples.stop
            samples = np.minimum(np.arange(first, first + chunk.padded_samples), stop - 1)
            inputs["z"] = grouped[masks][:, samples].reshape(chunk.rows, -1)
        yield chunk, inputs


@contextmanager
def _memory_errors() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as e:
        raise MemoryError(str(e)) from e


class _Slot:
    """Buffers of one call in flight: pinned host memory and device memory."""

    def __init__(self) -> None:
        self.host: dict[str, torch.Tensor] = {}
        self.device: dict[str, torch.Tensor] = {}
        self.key: Any = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def views(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Any:
        """Return (host, device) tensors of ``shape``; their memory only grows."""
        count = int(np.prod(shape))
        if name not in self.host or self.host[name].numel() < count:
            self.host[name] = torch.empty(count, dtype=dtype, pin_memory=True)
            self.device[name] = torch.empty(count, dtype=dtype, device=device)
        self.shapes[name] = shape
        return self.host[name][:count].view(shape), self.device[name][:count].view(shape)


class _Network:
    """One deserialized engine with its execution context."""

    def __init__(self, record: Record, blob: bytes, device: torch.device) -> None:
        self.trt = trt = load_runtime(side_of(record).runtime)
        self.device = device
        self.log = log = make_logger(trt, Silent())
        with torch.cuda.device(device):
            self.runtime = trt.Runtime(log)
            self.engine = self.runtime.deserialize_cuda_engine(blob)
            if self.engine is None:
                raise stale(record, log.errors[-4:] or ["the runtime rejects it"])
            self._kernels: Any = None
            # named by the engine's hash, as an encoder and its generator have different kernels
            name = f"kernels-{hashlib.sha256(blob).hexdigest()[:16]}.bin"
            self._kernels_path = cache_dir() / "tensorrt" / name
            self.context = self._context()
            self.compute = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self.back = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        if self.context is None:
            raise MemoryError("; ".join(log.errors[-2:]) or "no memory for the engine's activations")
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        inputs = [n for n in names if self.engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        self.outputs = [n for n in names if n not in inputs]
        self.slots = [_Slot(), _Slot()]
        self._graphs: dict[Any, tuple[Any, Any]] = {}  # (buffers, shapes) -> recording and its context
        # TensorRT for RTX records launches itself
        self._record_graphs = self._kernels is None

    def _context(self) -> Any:
        if not hasattr(self.engine, "create_runtime_config"):
            return self.engine.create_execution_context()
        config = self.engine.create_runtime_config()
        if hasattr(config, "create_runtime_cache"):  # kernels are compiled on first use
            self._kernels = config.create_runtime_cache()
            if self._kernels_path.is_file():
                self._kernels.deserialize(self._kernels_path.read_bytes())
            config.set_runtime_cache(self._kernels)
        if hasattr(config, "cuda_graph_strategy"):
            config.cuda_graph_strategy = self.trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return self.engine.create_execution_context(config)

    def save_kernels(self) -> None:
        """Save compiled kernels for the next process."""
        if self._kernels is not None:
            write_bytes(self._kernels_path, bytes(memoryview(self._kernels.serialize())))

    def run_all(self, parts: Any) -> Iterator[tuple[Any, dict[str, NDArray[np.float32]]]]:
        """Yield (key, outputs) for each (key, inputs), in order.

        Outputs are views of pinned memory: copy them before the next iteration.
        """
        with torch.cuda.device(self.device):
            waiting: list[_Slot] = []
            for i, (key, inputs) in enumerate(parts):
                slot = self.slots[i % 2]
                if slot in waiting:
                    yield self._arrived(waiting.pop(0))
                self._launch(slot, key, inputs)
                waiting.append(slot)
            for slot in waiting:
                yield self._arrived(slot)

    def _arrived(self, slot: _Slot) -> tuple[Any, dict[str, NDArray[np.float32]]]:
        slot.arrived.synchronize()
        views = {n: slot.views(n, slot.shapes[n], torch.float32, self.device)[0].numpy() for n in self.outputs}
        return slot.key, views

    def _launch(self, slot: _Slot, key: Any, inputs: dict[str, NDArray[Any]]) -> None:
        """Enqueue the copy of the inputs, the computation, and the copy of the outputs, without waiting."""
        slot.key = key
        with torch.cuda.stream(self.compute):
            for name, values in inputs.items():
                dtype = TORCH_TYPES[self.engine.get_tensor_dtype(name).name]
                host, device = slot.views(name, values.shape, dtype, self.device)
                host.numpy()[...] = values
                device.copy_(host, non_blocking=True)
            hosts = self._bind(self.context, slot, inputs)
            self._enqueue(slot, inputs)
        self.back.wait_stream(self.compute)
        with torch.cuda.stream(self.back):
            for host, device in hosts:
                host.copy_(device, non_blocking=True)
            slot.arrived.record(self.back)

    def _bind(self, context: Any, slot: _Slot, inputs: Iterable[str]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Bind the slot's buffers and shapes to a context; return (host, device) of each output."""
        for name in inputs:
            device = slot.device[name]
            if not context.set_input_shape(name, slot.shapes[name]):
                raise UserError(f"the engine rejects {name} of shape {list(slot.shapes[name])}", hint="build it again")
            context.set_tensor_address(name, device.data_ptr())
        outputs = []
        for name in self.outputs:
            host, device = slot.views(name, tuple(context.get_tensor_shape(name)), torch.float32, self.device)
            context.set_tensor_address(name, device.data_ptr())
            outputs.append((host, device))
        return outputs

    def _enqueue(self, slot: _Slot, inputs: Iterable[str]) -> None:
        """Run the network on the compute stream; the first call of a shape also records its launches for later ones.

        A recording depends on the state of its execution context, so each has its own, which is never changed.
        """
        addresses = tuple(t.data_ptr() for t in slot.device.values())
        state = (addresses, tuple(slot.shapes.items()))
        if state in self._graphs:
            self._graphs[state][0].replay()
            return
        self._execute(self.context)
        if not self._record_graphs or len(self._graphs) >= MAX_GRAPHS:
            return
        try:
            context = self._context()
            if context is None:
                raise RuntimeError("no memory for another context")
            self._bind(context, slot, inputs)
            self._execute(context)  # recording needs a warm-up
            self.compute.synchronize()
            recording = torch.cuda.CUDAGraph()
            with torch.cuda.graph(recording, stream=self.compute, capture_error_mode="thread_local"):
                self._execute(context)
        except (RuntimeError, UserError):
            self._record_graphs = False  # a layer cannot be recorded, or memory is short: later calls are not recorded
        else:
            self._graphs[state] = recording, context

    def _execute(self, context: Any) -> None:
        if not context.execute_async_v3(self.compute.cuda_stream):
            raise UserError("the engine failed to run", hint="build it again, or render with the .safetensors")
