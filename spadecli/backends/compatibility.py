"""Checks of a converted file: changed weights, another runtime or GPU, damage, an encoder of other weights."""

from __future__ import annotations

from ..core.errors import UserError
from ..store.h5 import file_sha256
from ..weights.card import Card
from .artifact import EngineSidecar, Part, Record, Tensors, encoder_file, is_there, read_artifact

RTX_LEAST = 8.0  # least compute capability of a TensorRT for RTX engine without targets


def stale(record: Record, problems: list[str]) -> UserError:
    """Build the error for an artifact that must be rebuilt."""
    return UserError(f"{record.path}: stale or foreign", problems=problems, hint=f"build it again: {record.rebuild}")


def check_weights(record: Record) -> None:
    """Raise UserError if the weights have changed since the conversion."""
    if problems := weights_problems(record):
        raise stale(record, problems)


def weights_problems(record: Record) -> list[str]:
    """Return a problem if the weights, at their path or beside the artifact, have changed; none if they are missing."""
    there = [p for p in dict.fromkeys(record.places) if is_there(p)]
    if there and all(file_sha256(p) != record.export.weights_sha256 for p in there):
        return [f"made from another version of {there[0]}"]
    return []


def engine_problems(record: Record, runtime_version: str | None, capability: str | None) -> list[str]:
    """Return why an engine cannot run here. runtime_version, capability ("8.6"): None if there is none to compare."""
    return [*file_problems(record), *runtime_problems(record, runtime_version, capability)]


def file_problems(record: Record) -> list[str]:
    """Return the problems of an engine's file, given its weights and its side file."""
    side = side_of(record)
    told = graph_problems(record.card, record.export.kind, side.inputs, side.outputs)
    return [*weights_problems(record), *told, *_damage(record)]


def graph_problems(card: Card, kind: Part, inputs: Tensors, outputs: Tensors) -> list[str]:
    """Return where the inputs and outputs of a graph or an engine do not fit its card."""
    size, z_dim, any_size = card.architecture.size, card.architecture.z_dim, -1
    if kind == "encoder":
        takes: Tensors = {"photos": ("FLOAT", (any_size, 3, any_size, any_size))}
        gives: Tensors = dict.fromkeys(("mu", "logvar"), ("FLOAT", (any_size, z_dim)))
    else:
        takes = {"labels": ("UINT8", (any_size, *size))}
        if card.labels.instances:
            takes["edges"] = takes["labels"]
        if card.architecture.uses_z:
            takes["z"] = ("FLOAT", (any_size, z_dim))
        gives = {"images": ("FLOAT", (any_size, 3, *size))}
    return [
        f"its graph {verb} {_in_words(found)}, its card says {_in_words(wanted)}"
        for verb, found, wanted in (("takes", inputs, takes), ("gives", outputs, gives))
        if found != wanted
    ]


def _in_words(tensors: Tensors) -> str:
    """Format tensors: "labels uint8 [*,32,64], z float [*,5]"."""
    words = [
        f"{name} {kind.lower()} [{','.join('*' if n < 0 else str(n) for n in shape)}]"
        for name, (kind, shape) in tensors.items()
    ]
    return ", ".join(words) or "nothing"


def _damage(record: Record) -> list[str]:
    side, num_bytes = side_of(record), record.path.stat().st_size
    if num_bytes < side.engine_bytes:
        return [f"truncated: {num_bytes:,} of {side.engine_bytes:,} bytes"]
    if num_bytes > side.engine_bytes or file_sha256(record.path) != side.engine_sha256:
        return ["not the file that its side file describes: damaged or replaced"]
    return []


def runtime_problems(record: Record, runtime_version: str | None, capability: str | None) -> list[str]:
    """Return why an engine does not fit the runtime and GPU of this machine."""
    side, problems = side_of(record), []
    if runtime_version is not None and runtime_version != side.runtime_version:
        problems.append(f"built by {side.runtime} {side.runtime_version}; this machine has {runtime_version}")
    if capability is not None:
        problems += _gpu_problems(side, capability)
    return problems


def side_of(record: Record) -> EngineSidecar:
    """Return the side file of an engine's record."""
    assert record.side is not None, record.path
    return record.side


def capability_of_target(target: str) -> str:
    """Convert "sm86" to "8.6"."""
    return f"{target[2:-1]}.{target[-1]}"


def _gpu_problems(side: EngineSidecar, capability: str) -> list[str]:
    targets = [capability_of_target(t) for t in side.targets]
    if targets and capability not in targets:
        return [f"built for compute capabilities {', '.join(targets)}; this GPU has {capability}"]
    if not targets and side.compute_capability and side.compute_capability != capability:
        return [f"built on a GPU of compute capability {side.compute_capability}; this one has {capability}"]
    if not targets and side.runtime == "tensorrt-rtx" and float(capability) < RTX_LEAST:
        return [f"built for compute capability {RTX_LEAST} and later; this GPU has {capability}"]
    return []


def find_encoder(record: Record) -> Record | None:
    """Return the image encoder beside a generator; None if it is missing, or the weights have none.

    Raises UserError if that file is damaged, not an encoder, or of other weights.
    """
    path = encoder_file(record.path)
    if not record.card.architecture.has_encoder or not path.is_file():
        return None
    try:
        encoder = read_artifact(path)
    except UserError as e:  # its hint does not rebuild the generator
        raise stale(record, [e.message, *e.problems]) from e
    if problems := _encoder_problems(record, encoder):
        raise stale(record, [f"{path}: {p}" for p in problems])
    return encoder


def _encoder_problems(record: Record, encoder: Record) -> list[str]:
    if encoder.export.kind != "encoder":
        return ["a generator, where the image encoder belongs"]
    problems = []
    ours, theirs = record.export.weights_sha256, encoder.export.weights_sha256
    if theirs != ours:
        problems.append(f"made from other weights (sha256 {theirs[:12]}...) than {record.path} ({ours[:12]}...)")
    z_dim, codes = record.card.architecture.z_dim, encoder.card.architecture.z_dim
    if codes != z_dim:
        problems.append(f"its style codes have Z = {codes}, {record.path} takes Z = {z_dim}")
    if record.side and encoder.side:
        if encoder.side.runtime != record.side.runtime:
            problems.append(f"built by {encoder.side.runtime}, {record.path} by {record.side.runtime}")
        problems += graph_problems(encoder.card, "encoder", encoder.side.inputs, encoder.side.outputs)
        problems += _damage(encoder)
    return problems


def check_encoder(record: Record, has_encoder: bool) -> None:
    """Raise UserError if there is no encoder."""
    if not record.card.architecture.has_encoder:
        raise UserError(
            f"weights {record.card.name!r} have no image encoder (latent = {record.card.architecture.latent!r})",
            hint='styles need weights trained with latent = "encoder", such as the shipped facades weights',
        )
    if not has_encoder:
        raise UserError(
            f"{encoder_file(record.path)}: the image encoder is missing beside {record.path}",
            hint=f"convert both again: {record.rebuild}",
        )
