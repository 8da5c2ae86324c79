"""``spade convert``: weights from one file format to another."""

from __future__ import annotations

import shlex
from dataclasses import replace

from ...backends.profile import Profile, parse_range
from ...core.errors import SpadeError, UserError
from ...core.recipe_files import resolve_weights
from ...core.report import Report, Silent
from .options import ConvertOptions, ConvertResult

__all__ = ["ConvertOptions", "ConvertResult", "convert", "parse_profile", "parse_targets"]

SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx", "tensorrt": ".engine", "tensorrt-rtx": ".engine"}

# options for checkpoints only
NVLABS_ONLY = (
    "encoder",
    "preset",
    "num_classes",
    "dont_care",
    "instance",
    "crop_size",
    "aspect",
    "upsampling",
    "norm",
)

# option -> default of those for artifacts only, and for weights files only
ARTIFACT_ONLY = {"precision": "fp32", "size": None, "verify": True}
WEIGHTS_ONLY = {"half": False, "metrics": (), "match_prior": None}


def convert(options: ConvertOptions, report: Report | None = None) -> ConvertResult:
    """Write the kind of file that the options name, beside the source or to ``output``.

    Raises UserError where the source is damaged, does not fit the options, the output exists, or an artifact misses
    its tolerance; BackendUnavailable where a package or device is missing.
    """
    report = report or Silent()
    options = replace(options, source=resolve_weights(options.source))
    _check_source(options)
    suffix = SUFFIXES[options.to]
    output = options.output or options.source.with_suffix(suffix)
    if output.suffix != suffix:
        what = "weights files" if suffix == ".safetensors" else f"files for {options.to}"
        raise UserError(f"{output}: {what} end in {suffix}")
    if output.resolve() == options.source.resolve():
        raise UserError(f"{output}: is the source itself", hint="name another file with -o")
    if output.exists() and not (options.overwrite or options.dry_run):
        raise UserError(f"{output}: exists already", hint="--overwrite replaces it, -o names another file")
    if options.to == "safetensors":
        from .to_safetensors import to_safetensors

        return to_safetensors(options, output, report)
    from .to_artifact import to_artifact

    return to_artifact(options, output, report)


def parse_profile(masks: str | None, samples: str | None) -> Profile:
    """Profile of an engine from "MIN,OPT,MAX" each, None for the defaults. Raises UserError."""
    default = Profile()
    return Profile(
        parse_range("--masks", masks) if masks else default.masks,
        parse_range("--samples", samples) if samples else default.samples,
    )


def parse_targets(text: str | None) -> tuple[str, ...]:
    """ "sm75,SM86" to ("sm75", "sm86"), each once; None gives none. Raises UserError where one has no name."""
    if text is None:
        return ()
    targets = [t.strip().lower() for t in text.split(",")]
    if not all(targets):
        raise UserError(f"--target {text!r}: one of them has no name", hint="for example --target sm75,sm86")
    return tuple(dict.fromkeys(targets))


def _check_source(options: ConvertOptions) -> None:
    """Refuse a source that is not a weights file, and options that its kind would ignore."""
    source = options.source
    if not source.is_file():
        raise UserError(f"{source}: no such weights file")
    if source.suffix == ".pt":
        raise UserError(f"{source}: training state, not weights", hint="its weights are weights.safetensors beside it")
    if source.suffix == ".safetensors" and (
        given := [f"--{name.replace('_', '-')}" for name in NVLABS_ONLY if getattr(options, name) is not None]
    ):
        raise UserError(f"{', '.join(given)}: only for NVlabs .pth files; {source} has a card with these facts")
    if source.suffix in (".onnx", ".engine"):
        raise UserError(
            f"{source}: converted already; convert starts from the weights it was made from",
            hint=_command_for(options),
        )
    only = WEIGHTS_ONLY if options.to != "safetensors" else ARTIFACT_ONLY
    useless = [name for name, default in only.items() if getattr(options, name) != default]
    if options.to not in ("tensorrt", "tensorrt-rtx"):
        profile, usual = options.profile, Profile()
        engine_only = {"masks": profile.masks != usual.masks, "samples": profile.samples != usual.samples}
        useless += [name for name, is_given in {**engine_only, "target": options.targets}.items() if is_given]
    if useless:
        given = ["--no-verify" if name == "verify" else f"--{name.replace('_', '-')}" for name in useless]
        hint = "--precision fp16 is what halves an artifact" if "half" in useless else ""
        raise UserError(f"{', '.join(given)}: nothing that --to {options.to} uses", hint=hint)
    if options.to != "safetensors" and source.suffix != ".safetensors":
        raise UserError(
            f"{source}: --to {options.to} starts from a .safetensors", hint=f"first: spade convert {source}"
        )


def _command_for(options: ConvertOptions) -> str:
    """Command that converts the weights of a converted file, as far as it names them."""
    from ...backends.artifact import read_artifact

    source = options.source
    try:
        weights = str(read_artifact(source).weights)
    except SpadeError:
        weights = "WEIGHTS.safetensors"
    if options.to == "safetensors":
        return f"that was {weights}; --to onnx, tensorrt or tensorrt-rtx makes other files of them"
    output = options.output or source.with_suffix(SUFFIXES[options.to])
    return shlex.join(["spade", "convert", weights, "--to", options.to, "-o", str(output)])
