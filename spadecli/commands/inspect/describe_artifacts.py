"""Converted files: ONNX and TensorRT engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...backends.artifact import EngineSidecar, encoder_file, read_artifact
from ...backends.compatibility import engine_problems, find_encoder, weights_problems
from ...core.errors import BackendUnavailable, UserError
from .describe_files import Description, class_rows, labels_in_short

SIDE_FACTS = (
    "runtime",
    "runtime_version",
    "compute_capability",
    "targets",
    "profile",
    "inputs",
    "outputs",
    "onnx_sha256",
    "verification",
)
# in full in the weights file
LEFT_OUT = {"labels", "training", "recipe", "metrics"}


def describe_artifact(path: Path) -> Description:
    """(kind, facts, classes, label space) of an .onnx or .engine file; ``problems`` among the facts says what is wrong.

    Raises UserError where the file is missing or damaged, or has no card.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    record = read_artifact(path)
    encoder, side = encoder_file(path), record.side
    problems = engine_problems(record, *_here(side)) if side else weights_problems(record)
    if record.export.kind == "generator" and record.card.architecture.has_encoder and not encoder.is_file():
        problems.append(f"{encoder} is missing: no styles can be read from photos")
    elif record.export.kind == "generator":
        try:
            find_encoder(record)
        except UserError as e:
            problems += e.problems or (e.message,)
    facts: dict[str, Any] = {
        **record.card.model_dump(mode="json", exclude=LEFT_OUT),
        "labels": labels_in_short(record.card.labels),
        "export": record.export.model_dump(mode="json"),
        **(side.model_dump(mode="json", include=set(SIDE_FACTS)) if side else {}),
        "bytes": path.stat().st_size,
        "problems": problems,
    }
    if problems:
        facts["rebuild"] = record.rebuild
    return "engine" if side else "onnx", facts, class_rows(record.card.labels), record.card.labels


def _here(side: EngineSidecar) -> tuple[str | None, str | None]:
    """This machine's version of the engine's runtime, and its GPU's compute capability; None without one."""
    import torch

    from ...backends.build import load_runtime
    from ...backends.tensorrt_backend import capability_of, gpu

    try:
        version = str(load_runtime(side.runtime).__version__)
    except BackendUnavailable:
        version = None
    return version, capability_of(gpu("auto")) if torch.cuda.is_available() else None
