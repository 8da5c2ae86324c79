"""Weights to ONNX or to a TensorRT engine, proven equal to torch before they are left."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from ...backends.artifact import EngineSidecar, Record, encoder_file, require, side_file
from ...backends.base import Backend, check_size, open_backend
from ...backends.compatibility import capability_of_target
from ...backends.profile import Profile
from ...backends.verify import Verification, refusal, verify
from ...core.errors import BackendUnavailable, UserError
from ...core.report import Report
from ...core.version import VERSION
from ...store.atomic import write_bytes, write_text
from ...weights.card import Card
from ...weights.file import count_parameters, read_card
from .options import ConvertOptions, ConvertResult

if TYPE_CHECKING:
    import onnx

    from ...backends.build import Engine
    from ...backends.onnx_export import Exported


def to_artifact(options: ConvertOptions, output: Path, report: Report) -> ConvertResult:
    """Write ``output``, the side file of an engine, and the image encoder in ``encoder/``."""
    card = read_card(options.source)
    if options.size is not None:
        check_size(options.size, card)
        card = card.model_copy(update={"architecture": card.architecture.model_copy(update={"size": options.size})})
    _check_packages(options)
    others = _other_files(options, card, output)
    there = [p for p in others if p.exists()]
    if there and not (options.overwrite or options.dry_run):
        raise UserError(f"{there[0]}: exists already", hint="--overwrite replaces it, -o names another file")
    if options.dry_run:
        return ConvertResult(output, card, _parameters(options.source), others)
    from ...backends.onnx_export import export

    exported = export(options.source, options.precision, options.size, options.to != "onnx", output.parent)
    files = _onnx_files(exported, output) if options.to == "onnx" else None
    if files is None:
        verification, files = _engine_files(options, exported, output, report)
    else:
        verification = _verify_onnx(options, exported, output) if options.verify else None
    if verification is not None and verification.problems:
        raise refusal(str(output), verification)
    for path, content in files.items():
        write_bytes(path, content) if isinstance(content, bytes) else write_text(path, content)
    return ConvertResult(output, exported.card, _parameters(options.source), others, verification)


def _check_packages(options: ConvertOptions) -> None:
    """Raise BackendUnavailable for a missing package, before any work is done."""
    require("onnx", "onnx")
    if options.verify:
        require("onnxruntime", "onnxruntime")
    if options.to == "tensorrt" or options.to == "tensorrt-rtx":  # noqa: PLR1714 - narrows the type
        from ...backends.build import check_targets, load_runtime

        load_runtime(options.to)
        check_targets(options.to, options.targets, options.precision)


def _other_files(options: ConvertOptions, card: Card, output: Path) -> tuple[Path, ...]:
    files = [output]
    if card.architecture.has_encoder:
        files.append(encoder_file(output))
    if options.to != "onnx":
        files += [side_file(f) for f in files]
    return tuple(files[1:])


def _parameters(weights: Path) -> int:
    return sum(count_parameters(weights).values())


def _onnx_files(exported: Exported, output: Path) -> dict[Path, bytes | str]:
    files: dict[Path, bytes | str] = {}
    if exported.encoder is not None:
        files[encoder_file(output)] = exported.encoder.SerializeToString()
    files[output] = exported.generator.SerializeToString()
    return files


def _verify_onnx(options: ConvertOptions, exported: Exported, output: Path, stood_in: str = "") -> Verification:
    """Compare the graph with torch; where this machine cannot run it, a form of it that says so."""
    from ...backends.emulate_half import rounded_in_float32
    from ...backends.onnx_backend import open_models

    record = Record(output, exported.card, exported.record)
    model, ran = exported.generator, "ONNX Runtime on the CPU"
    try:
        # half precision in ONNX Runtime's own kernels says something of the .onnx, and nothing of an engine
        if stood_in and options.precision != "fp32":
            raise BackendUnavailable("")
        candidate = open_models(record, model, exported.encoder)
    except BackendUnavailable as e:
        stood_in = stood_in or f"the file itself was not run ({e.message.removeprefix(f'{output}: ')})"
        ran = f"ONNX Runtime on the CPU, in fp32 with every value rounded to {options.precision},"
        candidate = open_models(record, rounded_in_float32(model), exported.encoder)
    with candidate, open_backend(options.source, "cpu", form="plain") as reference:
        return verify(reference, candidate, options.precision, ran=ran, stood_in=stood_in)


def _engine_files(
    options: ConvertOptions, exported: Exported, output: Path, report: Report
) -> tuple[Verification | None, dict[Path, bytes | str]]:
    """Engines with their side files. Where no GPU can run them the graph is verified, before the long build."""
    import torch

    from ...backends.build import PHOTO_SIDES

    verification = None
    runs_here = torch.cuda.is_available()
    if options.verify and not runs_here:
        reason = "the engine itself was not run (no CUDA device)"
        verification = _verify_onnx(options, exported, output, reason)
        if verification.problems:
            raise refusal(str(output), verification)
    sides: dict[Path, EngineSidecar] = {}
    blobs: dict[Path, bytes] = {}
    for path, model in ((encoder_file(output), exported.encoder), (output, exported.generator)):
        if model is not None:
            engine, sides[path] = _build(options, exported, model, report)
            if path != output:
                of_encoder = exported.record.model_copy(update={"kind": "encoder"})
                changed = {"precision": "fp32", "export": of_encoder, "photo_sides": PHOTO_SIDES}
                sides[path] = sides[path].model_copy(update=changed)
            blobs[path] = engine.blob
    if options.verify and runs_here:
        verification = _verify_engine(options, exported, output, blobs, sides[output], report)
    files: dict[Path, bytes | str] = {}
    for path, blob in blobs.items():
        result = verification.as_json() if verification else None
        files[path] = blob
        files[side_file(path)] = (
            sides[path].model_copy(update={"verification": result}).model_dump_json(indent=2) + "\n"
        )
    return verification, files


def _build(
    options: ConvertOptions, exported: Exported, model: onnx.ModelProto, report: Report
) -> tuple[Engine, EngineSidecar]:
    import torch

    from ...backends.build import build
    from ...backends.tensorrt_backend import capability_of, gpu

    assert options.to in ("tensorrt", "tensorrt-rtx")
    profile = profile_for(options.profile, exported.card)
    engine = build(options.to, model, profile, report, options.targets)
    own = capability_of(gpu("auto")) if options.to == "tensorrt" and torch.cuda.is_available() else ""
    side = EngineSidecar(
        created_by=f"spade {VERSION}",
        runtime=options.to,
        runtime_version=engine.runtime_version,
        compute_capability=own,
        targets=engine.targets,
        precision=options.precision,
        profile=profile,
        inputs=engine.inputs,
        outputs=engine.outputs,
        weights_sha256=exported.record.weights_sha256,
        onnx_sha256=hashlib.sha256(model.SerializeToString()).hexdigest(),
        engine_sha256=hashlib.sha256(engine.blob).hexdigest(),
        engine_bytes=len(engine.blob),
        export=exported.record,
        card=exported.card,
    )
    return engine, side


def profile_for(profile: Profile, card: Card) -> Profile:
    """The profile for these weights: one sample per mask if the image depends on the map alone."""
    return profile if card.architecture.uses_z else Profile(profile.masks, (1, 1, 1))


def _verify_engine(
    options: ConvertOptions,
    exported: Exported,
    output: Path,
    blobs: dict[Path, bytes],
    side: EngineSidecar,
    report: Report,
) -> Verification:
    from ...backends.tensorrt_backend import TensorRTBackend, capability_of, gpu

    capability = capability_of(gpu("auto"))
    wanted = [capability_of_target(t) for t in options.targets]
    if wanted and capability not in wanted:
        report.warn(f"this GPU ({capability}) is none of the targets")
        reason = f"the engine itself was not run (this GPU has compute capability {capability})"
        return _verify_onnx(options, exported, output, reason)
    record = Record(output, exported.card, exported.record, side)
    candidate: Backend = TensorRTBackend(record, "cuda", blobs[output], blobs.get(encoder_file(output)))
    with candidate, open_backend(options.source, "cpu", form="plain") as reference:
        return verify(reference, candidate, options.precision, profile=side.profile)
