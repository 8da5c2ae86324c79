"""ONNX to a TensorRT engine: one code path for TensorRT 10, 11 and TensorRT for RTX, which checks for features.

Networks are strongly typed: every layer has the precision of the graph. TensorRT for RTX builds without a GPU.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.cache import cache_dir
from ..core.errors import BackendUnavailable, UserError
from ..core.report import Report, Task
from ..store.atomic import write_bytes
from .artifact import INSTALL, Precision, Runtime
from .profile import Profile

if TYPE_CHECKING:
    import onnx

MODULES: dict[Runtime, tuple[str, ...]] = {
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
MAX_MESSAGES = 8
BF16_LEAST = 80  # compute capability 8.0: Turing has no bf16
PHOTO_SIDES = (16, 256, 4096)  # (least, best, most) height and width of the encoder's input


@dataclass(frozen=True)
class Engine:
    """A built engine. inputs, outputs: name -> (type, shape) in its network, -1 for a dynamic size."""

    blob: bytes
    inputs: dict[str, tuple[str, tuple[int, ...]]]
    outputs: dict[str, tuple[str, tuple[int, ...]]]
    targets: tuple[str, ...]
    runtime_version: str


def load_runtime(kind: Runtime) -> Any:
    """Import the runtime's Python module. Raises BackendUnavailable with the command that installs it."""
    for name in MODULES[kind]:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as e:
            if e.name != name:
                raise BackendUnavailable(f"{kind} cannot be loaded: {e}", hint=INSTALL[kind]) from e
        except (ImportError, OSError) as e:
            raise BackendUnavailable(f"{kind} cannot be loaded: {e}", hint=INSTALL[kind]) from e
    raise BackendUnavailable(f"{kind} is not installed", hint=INSTALL[kind])


def build(
    kind: Runtime, model: onnx.ModelProto, profile: Profile, report: Report, targets: Sequence[str] = ()
) -> Engine:
    """Build an engine. targets: compute capabilities such as "sm86", checked by :func:`check_targets`.

    Raises BackendUnavailable if the runtime or its GPU is missing, UserError with the messages of the parser or the
    builder if it fails.
    """
    trt = load_runtime(kind)
    log = make_logger(trt, report)
    builder = _made(trt.Builder, log, kind)
    try:
        network, parser = _parse(trt, builder, log, model)
    except UserError:
        # TensorRT documents uint8 inputs only for conversion to float
        log.errors.clear()
        network, parser = _parse(trt, builder, log, through_float(model))
    if log.stopped:
        raise KeyboardInterrupt
    config = builder.create_builder_config()
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)  # fp32 means fp32
    _set_targets(trt, config, targets)
    config.add_optimization_profile(_profile(builder, network, profile))
    cache = _TimingCache(config, kind, trt.__version__)
    with ExitStack() as stack:
        if hasattr(config, "progress_monitor"):
            config.progress_monitor = _monitor(trt, stack, report, log)
        blob = builder.build_serialized_network(network, config)
    if log.stopped:
        raise KeyboardInterrupt
    if blob is None:
        raise UserError(
            f"{kind} {trt.__version__} could not build an engine",
            problems=log.errors[-MAX_MESSAGES:],
            hint="-v shows all of its messages; a smaller --masks or --samples needs less memory",
        )
    del parser  # it owns the weights, which are no longer needed
    cache.save()
    found = [
        {t.name: (t.dtype.name, tuple(t.shape)) for t in map(get, range(n))}
        for get, n in ((network.get_input, network.num_inputs), (network.get_output, network.num_outputs))
    ]
    return Engine(bytes(blob), found[0], found[1], tuple(targets), trt.__version__)


def make_logger(trt: Any, report: Report) -> Any:
    """Make a logger that collects errors in ``errors`` and reports all messages: at -v, verbose ones at -vv.

    The bindings swallow exceptions in callbacks, so a Ctrl-C during one is recorded in ``stopped``.
    """

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.stopped = False

        def log(self, severity: Any, message: str) -> None:
            try:
                if severity <= trt.ILogger.Severity.ERROR:
                    self.errors.append(message)
                report.note(f"{severity.name.lower()}: {message}", 1 if severity < trt.ILogger.Severity.VERBOSE else 2)
            except KeyboardInterrupt:
                self.stopped = True

    return Log()


def through_float(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with uint8 inputs cast to float, then to integers: exact, and supported by every runtime."""
    import onnx
    from onnx import TensorProto, helper

    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    bytes_inputs = {i.name for i in model.graph.input if i.type.tensor_type.elem_type == TensorProto.UINT8}
    nodes = []
    for node in changed.graph.node:
        if node.op_type == "Cast" and node.input[0] in bytes_inputs:
            name = f"{node.input[0]}/float"
            nodes.append(helper.make_node("Cast", [node.input[0]], [name], name=name, to=TensorProto.FLOAT))
            node.input[0] = name
        nodes.append(node)
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    onnx.checker.check_model(changed, full_check=True)
    return changed


def _made(builder: Any, log: Any, kind: Runtime) -> Any:
    try:
        made = builder(log)
    except Exception as e:  # the bindings may raise any exception
        made, reason = None, str(e)
    else:
        reason = ""
    if made is None:
        told = log.errors[-MAX_MESSAGES:] or [reason]
        hint = "TensorRT needs a CUDA GPU; tensorrt-rtx builds without one" if kind == "tensorrt" else ""
        raise BackendUnavailable(f"{kind} cannot build engines on this machine", problems=told, hint=hint)
    return made


def _parse(trt: Any, builder: Any, log: Any, model: onnx.ModelProto) -> tuple[Any, Any]:
    """Parse the graph; return (network, parser). Raises UserError with the parser's messages."""
    flags = trt.NetworkDefinitionCreationFlag
    network = builder.create_network(1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model.SerializeToString()):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        problems = [f"node {e.node_name()} ({e.node_operator()}): {e.desc()}" for e in errors]
        raise UserError("the ONNX parser rejects the graph", problems=problems[:MAX_MESSAGES])
    return network, parser


def _profile(builder: Any, network: Any, profile: Profile) -> Any:
    made = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        if tensor.name == "photos":  # the encoder: one photo at a time, of PHOTO_SIDES
            made.set_shape(tensor.name, *[(1, 3, side, side) for side in PHOTO_SIDES])
        else:
            counts = profile.rows if tensor.name == "z" else profile.masks
            made.set_shape(tensor.name, *[(n, *tuple(tensor.shape)[1:]) for n in counts])
    return made


def check_targets(kind: Runtime, targets: Sequence[str], precision: Precision) -> None:
    """Raise UserError for compute capabilities that the runtime cannot build for, or not at this precision."""
    if not targets:
        return
    trt = load_runtime(kind)
    if not hasattr(trt.IBuilderConfig, "set_compute_capability"):
        raise UserError(
            f"--target: {kind} {trt.__version__} builds only for the GPU of this machine",
            hint="--to tensorrt-rtx supports targets",
        )
    known = {n.lower() for n in dir(trt.ComputeCapability) if n.startswith("SM")}
    if bad := [t for t in targets if t not in known]:
        order = sorted(known, key=lambda n: int(n[2:]))
        raise UserError(f"--target {', '.join(bad)}: {kind} {trt.__version__} supports {', '.join(order)}")
    if precision == "bf16" and (old := [t for t in targets if int(t[2:]) < BF16_LEAST]):
        raise UserError(
            f"--target {', '.join(old)}: these GPUs have no bf16",
            hint=f"--precision fp16 or fp32; bf16 needs sm{BF16_LEAST} or later",
        )


def _set_targets(trt: Any, config: Any, targets: Sequence[str]) -> None:
    if not targets:
        return
    config.num_compute_capabilities = len(targets)
    for i, target in enumerate(targets):
        config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), i)


class _TimingCache:
    """Kernel timings of earlier builds, in one file per version. TensorRT for RTX has none, as it does not time."""

    def __init__(self, config: Any, kind: Runtime, version: str) -> None:
        self._cache: Any = None
        self._path: Path = cache_dir() / "tensorrt" / f"timing-{kind}-{version}.bin"
        if kind == "tensorrt-rtx" or not hasattr(config, "create_timing_cache"):
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            stored = self._path.read_bytes() if self._path.is_file() else b""
            self._cache = config.create_timing_cache(stored)
            config.set_timing_cache(self._cache, ignore_mismatch=False)

    def save(self) -> None:
        """Save the timings of this build."""
        if self._cache is not None:
            write_bytes(self._path, bytes(memoryview(self._cache.serialize())))


def _monitor(trt: Any, stack: ExitStack, report: Report, log: Any) -> Any:
    """Make a monitor that shows the outermost phase as a progress bar, and inner ones as the text beside it.

    Ctrl-C, recorded in ``log.stopped``, ends the build.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.outermost = ""
            self.task: Task | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            try:
                if self.task is None:
                    self.outermost = phase_name
                    self.task = stack.enter_context(report.progress(phase_name.lower(), num_steps))
                else:
                    self.task.advance(0, phase_name.lower())
            except KeyboardInterrupt:
                log.stopped = True

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                if self.task is not None and phase_name == self.outermost:
                    self.task.advance()
            except KeyboardInterrupt:
                log.stopped = True
            return not log.stopped

        def phase_finish(self, phase_name: str) -> None:
            pass

    return Monitor()
