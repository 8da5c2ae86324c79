"""``--engine auto``: an engine for this GPU, built when first needed and kept in the cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...backends.artifact import Precision, Runtime, read_engine
from ...backends.base import check_size
from ...backends.build import MODULES, load_runtime
from ...backends.compatibility import engine_problems
from ...backends.profile import Profile
from ...core.cache import cache_dir
from ...core.errors import BackendUnavailable, UserError
from ...core.report import Report
from ...core.sizes import Native, Size, format_size
from ...store.h5 import file_sha256

PRECISION: Precision = "fp16"


@dataclass(frozen=True)
class PlannedEngine:
    """The engine that ``--engine auto`` takes: where it is kept, what builds it, and for which size and GPU."""

    weights: Path
    path: Path
    runtime: Runtime
    version: str
    size: Size
    capability: str

    def is_there(self, report: Report) -> bool:
        """Whether it has been built, and can still be used."""
        if not self.path.is_file():
            return False
        try:
            return not engine_problems(read_engine(self.path), self.version, self.capability)
        except UserError as e:
            report.note(f"{e.line}; building it again")
            return False


def planned_engine(weights: Path, size: Size | Native | None, device: str) -> PlannedEngine:
    """The engine of a .safetensors file at an image size (None: the training size) for this GPU. Nothing is built.

    Another weights file, size, runtime version or GPU has an engine of its own.
    Raises UserError if these options rule an engine out, BackendUnavailable without a GPU or a runtime.
    """
    from ...backends.tensorrt_backend import capability_of, gpu
    from ...weights.file import read_card

    if weights.suffix != ".safetensors":
        raise UserError(f"--engine auto: {weights} is converted already", hint="leave --engine out")
    if size == "native":
        raise UserError("--engine auto: an engine has one image size, --size native has many")
    card = read_card(weights)
    wanted = size or card.architecture.size
    check_size(wanted, card)
    capability = capability_of(gpu(device))
    kind, version = _runtime(capability)
    key = f"{file_sha256(weights)[:16]}-{format_size(wanted)}-{PRECISION}-{kind}-{version}-sm{capability}"
    path = cache_dir() / "engines" / key / f"{weights.stem}.engine"
    return PlannedEngine(weights, path, kind, version, wanted, capability)


def cached_engine(planned: PlannedEngine, report: Report) -> Path:
    """The engine's file, built now unless it is there."""
    from ..convert.options import ConvertOptions
    from ..convert.to_artifact import to_artifact

    path = planned.path
    if planned.is_there(report):
        return path
    report.note(f"building an engine with {planned.runtime} {planned.version}; it is kept in {path.parent}")
    options = ConvertOptions(
        planned.weights,
        path,
        to=planned.runtime,
        precision=PRECISION,
        size=planned.size,
        profile=Profile((1, 8, 16), (1, 1, 4)),
        overwrite=True,
    )
    return to_artifact(options, path, report).path


def _runtime(capability: str) -> tuple[Runtime, str]:
    """TensorRT if it is installed, else TensorRT for RTX; and its version."""
    missing = []
    for kind in MODULES:
        try:
            return kind, str(load_runtime(kind).__version__)
        except BackendUnavailable as e:
            missing.append(f"{e.message}: {e.hint}")
    raise BackendUnavailable(
        f"--engine auto: no TensorRT for this GPU (compute capability {capability})", problems=missing
    )
