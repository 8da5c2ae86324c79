"""What a converted file says of itself, and what is wrong with it. Loads neither torch nor a runtime."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from ..core.card import Card
from ..core.errors import BackendUnavailable, UserError
from ..core.recipe import validation_problems
from ..core.sizes import format_size
from ..store.h5 import file_sha256
from .profile import Profile

Precision = Literal["fp32", "fp16", "bf16"]
INSTALL = {
    "onnx": "pip install onnx",
    "onnxruntime": "pip install onnxruntime",
    "tensorrt": "pip install tensorrt",
    "tensorrt-rtx": "pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings",
}
RTX_LEAST = 8.0  # an engine of TensorRT-RTX without targets runs on this compute capability and later ones


@dataclass(frozen=True)
class Record:
    """card: of the weights, its size the artifact's. export: weights, weights_sha256, size, precision, ...
    side: the engine's side file, {} for ONNX.
    """

    path: Path
    card: Card
    export: dict[str, Any]
    side: dict[str, Any]

    @property
    def precision(self) -> str:
        """fp32, fp16 or bf16."""
        return str(self.export["precision"])

    @property
    def profile(self) -> Profile:
        """The batches that an engine takes."""
        masks, samples = (tuple(self.side["profile"][key]) for key in ("masks", "samples"))
        return Profile(masks, samples)

    @property
    def rebuild(self) -> str:
        """The command that makes the file again from its weights."""
        kind = self.side.get("runtime", "onnx")
        words = ["spade convert", str(self.path.parent / self.export["weights"]), "--to", kind]
        words += ["--precision", self.precision, "--size", self.export["size"]]
        if self.side:
            words += [f"--{k} {','.join(map(str, v))}" for k, v in self.side["profile"].items()]
        if self.side.get("targets"):
            words += ["--target", ",".join(self.side["targets"])]
        return " ".join([*words, "-o", str(self.path), "--overwrite"])


def side_file(engine: Path) -> Path:
    """NAME.engine.json beside NAME.engine."""
    return engine.with_name(f"{engine.name}.json")


def encoder_file(path: Path) -> Path:
    """encoder/NAME beside NAME: the image encoder of the same weights."""
    return path.parent / "encoder" / path.name


def require(module: str, package: str) -> Any:
    """Import ``module``, or BackendUnavailable with the line that installs ``package``."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise BackendUnavailable(f"{package} is not installed ({e})", hint=INSTALL[package]) from e


def read_onnx(path: Path) -> Record:
    """Record of an .onnx file. Raises UserError where it is damaged or has no card, BackendUnavailable without onnx."""
    onnx = require("onnx", "onnx")
    try:
        model = onnx.load(path)
    except Exception as e:
        raise UserError(f"{path}: not a readable ONNX file ({e})", hint="make it again with spade convert") from e
    return _record(path, {p.key: p.value for p in model.metadata_props}, {})


def read_engine(path: Path) -> Record:
    """Record of an .engine file, from its side file. Raises UserError where that is missing or damaged."""
    side_path = side_file(path)
    again = "build the engine again: spade convert WEIGHTS --to tensorrt-rtx (or tensorrt)"
    try:
        side = json.loads(side_path.read_text("utf-8"))
        metadata = {"spade_card": json.dumps(side["card"]), "spade_export": json.dumps(side["export"])}
    except FileNotFoundError as e:
        raise UserError(f"{path}: its side file {side_path.name} is missing", hint=again) from e
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UserError(f"{side_path}: not a readable side file of an engine ({e!r})", hint=again) from e
    return _record(path, metadata, side)


def _record(path: Path, metadata: dict[str, str], side: dict[str, Any]) -> Record:
    if "spade_card" not in metadata or "spade_export" not in metadata:
        raise UserError(f"{path}: has no spade card", hint="only files made by spade convert can be opened")
    try:
        card = Card.model_validate_json(metadata["spade_card"])
    except ValidationError as e:
        raise UserError(f"{path}: its card does not fit this version of spade", problems=validation_problems(e)) from e
    return Record(path, card, json.loads(metadata["spade_export"]), side)


def weights_problems(record: Record) -> list[str]:
    """Whether the weights that lie beside the artifact are still those it was made from."""
    beside = record.path.parent / record.export["weights"]
    if beside.is_file() and file_sha256(beside) != record.export["weights_sha256"]:
        return [f"made from another version of {beside}"]
    return []


def engine_problems(record: Record, runtime_version: str | None, capability: str | None) -> list[str]:
    """Why an engine cannot run here. runtime_version, capability ("8.6"): None where there is none to compare."""
    side, problems = record.side, weights_problems(record)
    num_bytes = record.path.stat().st_size
    if num_bytes < side["engine_bytes"]:
        problems.append(f"truncated: {num_bytes:,} of {side['engine_bytes']:,} bytes")
    elif num_bytes > side["engine_bytes"] or file_sha256(record.path) != side["engine_sha256"]:
        problems.append("not the file that its side file describes: damaged or replaced")
    if runtime_version is not None and runtime_version != side["runtime_version"]:
        problems.append(f"built by {side['runtime']} {side['runtime_version']}; this machine has {runtime_version}")
    if capability is not None:
        problems += _gpu_problems(side, capability)
    return problems


def _gpu_problems(side: dict[str, Any], capability: str) -> list[str]:
    targets = [f"{t[2:-1]}.{t[-1]}" for t in side["targets"]]
    if targets and capability not in targets:
        return [f"built for compute capabilities {', '.join(targets)}; this GPU has {capability}"]
    if not targets and side["compute_capability"] and side["compute_capability"] != capability:
        return [f"built on a GPU of compute capability {side['compute_capability']}; this one has {capability}"]
    if not targets and side["runtime"] == "tensorrt-rtx" and float(capability) < RTX_LEAST:
        return [f"built for compute capability {RTX_LEAST} and later; this GPU has {capability}"]
    return []


def stale(record: Record, problems: list[str]) -> UserError:
    """The error for an artifact that cannot be used as it is."""
    return UserError(f"{record.path}: stale or foreign", problems=problems, hint=f"build it again: {record.rebuild}")


def check_fixed_size(card: Card, path: Path, size: tuple[int, int]) -> None:
    """Refuse a (height, width) other than the one that the artifact is made for."""
    fixed = card.architecture.size
    if size != fixed:
        raise UserError(
            f"{path}: made for images of {format_size(fixed)}, asked for {format_size(size)}",
            hint=f"spade convert with --size {format_size(size)} makes another file for that size",
        )
