"""ONNX to a TensorRT engine: one code path for TensorRT 10, 11 and TensorRT for RTX, told apart by what they have.

Networks are strongly typed: the precision of every layer is the graph's. TensorRT for RTX builds without a GPU.
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
PHOTO_SIDES = (16, 256, 4096)  # least, best, most of the encoder's input


@dataclass(frozen=True)
class Engine:
    """A built engine and what its network looks like: name -> (type, shape), -1 for a dynamic size."""

    blob: bytes
    inputs: dict[str, tuple[str, tuple[int, ...]]]
    outputs: dict[str, tuple[str, tuple[int, ...]]]
    targets: tuple[str, ...]
    runtime_version: str


def load_runtime(kind: Runtime) -> Any:
    """The runtime's Python module, or BackendUnavailable with the line that installs it."""
    for name in MODULES[kind]:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as e:
            if e.name != name:
                raise BackendUnavailable(f"{kind} does not load: {e}", hint=INSTALL[kind]) from e
        except (ImportError, OSError) as e:
            raise BackendUnavailable(f"{kind} does not load: {e}", hint=INSTALL[kind]) from e
    raise BackendUnavailable(f"{kind} is not installed", hint=INSTALL[kind])


def build(
    kind: Runtime, model: onnx.ModelProto, profile: Profile, report: Report, targets: Sequence[str] = ()
) -> Engine:
    """Build an engine. targets: compute capabilities such as "sm86", checked by :func:`check_targets`.

    Raises BackendUnavailable where the runtime or its GPU is missing, UserError with the parser's or the builder's
    own messages where it fails.
    """
    trt = load_runtime(kind)
    log = make_logger(trt, report)
    builder = _made(trt.Builder, log, kind)
    try:
        network, parser = _parse(trt, builder, log, model)
    except UserError:
        # TensorRT documents uint8 inputs for conversion to floats only
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
    del parser  # it owned the weights until here
    cache.save()
    found = [
        {t.name: (t.dtype.name, tuple(t.shape)) for t in map(get, range(n))}
        for get, n in ((network.get_input, network.num_inputs), (network.get_output, network.num_outputs))
    ]
    return Engine(bytes(blob), found[0], found[1], tuple(targets), trt.__version__)


def make_logger(trt: Any, report: Report) -> Any:
    """A logger that keeps the errors in ``errors`` and passes everything on: notes at -v, chatter at -vv.

    The bindings drop what callbacks raise: a Ctrl-C that comes during one is kept in ``stopped``.
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
    """The same graph with uint8 inputs cast to float first, then to integers: exact, and known to every runtime."""
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
    except Exception as e:  # the bindings raise what they like
        made, reason = None, str(e)
    else:
        reason = ""
    if made is None:
        told = log.errors[-MAX_MESSAGES:] or [reason]
        hint = "TensorRT needs a CUDA GPU; tensorrt-rtx builds without one" if kind == "tensorrt" else ""
        raise BackendUnavailable(f"{kind} cannot make a builder on this machine", problems=told, hint=hint)
    return made


def _parse(trt: Any, builder: Any, log: Any, model: onnx.ModelProto) -> tuple[Any, Any]:
    """(network, parser), or UserError with the parser's words."""
    flags = trt.NetworkDefinitionCreationFlag
    network = builder.create_network(1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model.SerializeToString()):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        problems = [f"node {e.node_name()} ({e.node_operator()}): {e.desc()}" for e in errors]
        raise UserError("the ONNX parser refuses the graph", problems=problems[:MAX_MESSAGES])
    return network, parser


def _profile(builder: Any, network: Any, profile: Profile) -> Any:
    made = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        if tensor.name == "photos":  # the encoder: one photo at a time, any size up to 4096
            made.set_shape(tensor.name, *[(1, 3, side, side) for side in PHOTO_SIDES])
        else:
            counts = profile.rows if tensor.name == "z" else profile.masks
            made.set_shape(tensor.name, *[(n, *tuple(tensor.shape)[1:]) for n in counts])
    return made


def check_targets(kind: Runtime, targets: Sequence[str], precision: Precision) -> None:
    """Refuse compute capabilities that the runtime does not build for, or not at this precision. Raises UserError."""
    if not targets:
        return
    trt = load_runtime(kind)
    if not hasattr(trt.IBuilderConfig, "set_compute_capability"):
        raise UserError(
            f"--target: {kind} {trt.__version__} builds for the GPU at hand alone", hint="--to tensorrt-rtx has targets"
        )
    known = {n.lower() for n in dir(trt.ComputeCapability) if n.startswith("SM")}
    if bad := [t for t in targets if t not in known]:
        order = sorted(known, key=lambda n: int(n[2:]))
        raise UserError(f"--target {', '.join(bad)}: {kind} {trt.__version__} knows {', '.join(order)}")
    if precision == "bf16" and (old := [t for t in targets if int(t[2:]) < BF16_LEAST]):
        raise UserError(
            f"--target {', '.join(old)}: these GPUs have no bf16",
            hint=f"--precision fp16 or fp32; bf16 begins with sm{BF16_LEAST}",
        )


def _set_targets(trt: Any, config: Any, targets: Sequence[str]) -> None:
    if not targets:
        return
    config.num_compute_capabilities = len(targets)
    for i, target in enumerate(targets):
        config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), i)


class _TimingCache:
    """Kernel timings of earlier builds, in a file of their own for each version. RTX has none: it times nothing."""

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
        """Keep what this build has timed."""
        if self._cache is not None:
            write_bytes(self._path, bytes(memoryview(self._cache.serialize())))


def _monitor(trt: Any, stack: ExitStack, report: Report, log: Any) -> Any:
    """The outermost phase as a progress bar, the inner ones as the text beside it. Ctrl-C, noted in ``log.stopped``,
    ends the build."""

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
