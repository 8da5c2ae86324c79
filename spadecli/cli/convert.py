"""``spade convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..core.sizes import parse_fixed_size
from .help import CHECKS
from .ui import UI, AsJson, DryRun, Quiet, Verbose

ENGINES, SAFETENSORS, NVLABS = "TensorRT engines", "Weights (safetensors)", "NVlabs checkpoints"


def convert(
    weights: Annotated[
        Path, typer.Argument(metavar="WEIGHTS", help="Weights (.safetensors), or NVlabs latest_net_G.pth.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="File to write.", show_default="beside the input"),
    ] = None,
    to: Annotated[
        Literal["safetensors", "onnx", "tensorrt", "tensorrt-rtx"],
        typer.Option(metavar="KIND", help="safetensors, onnx, tensorrt or tensorrt-rtx."),
    ] = "safetensors",
    precision: Annotated[
        Literal["fp32", "fp16", "bf16"],
        typer.Option(metavar="NAME", help="fp32, fp16 or bf16, for ONNX and engines."),
    ] = "fp32",
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Image size, for ONNX and engines.", show_default="as trained"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify", help="Compare with torch; keep nothing that misses.", rich_help_panel=CHECKS
        ),
    ] = True,
    masks: Annotated[
        str | None,
        typer.Option(metavar="MIN,OPT,MAX", help="Masks per call.", show_default="1,4,8", rich_help_panel=ENGINES),
    ] = None,
    samples: Annotated[
        str | None,
        typer.Option(metavar="MIN,OPT,MAX", help="Samples per mask.", show_default="1,1,4", rich_help_panel=ENGINES),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="SM,...",
            help="GPUs, such as sm75,sm86 (tensorrt-rtx).",
            show_default="sm80 and later",
            rich_help_panel=ENGINES,
        ),
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="Store float16: half the size.", rich_help_panel=SAFETENSORS)
    ] = False,
    metrics: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Add JSON of spade score --json to the card. Repeatable.", rich_help_panel=SAFETENSORS
        ),
    ] = None,
    match_prior: Annotated[
        Path | None,
        typer.Option(metavar="PHOTOS", help="Fold in where the photos' styles lie.", rich_help_panel=SAFETENSORS),
    ] = None,
    encoder: Annotated[
        Path | None, typer.Option(metavar="FILE", help="NVlabs latest_net_E.pth.", rich_help_panel=NVLABS)
    ] = None,
    preset: Annotated[
        Literal["coco", "ade20k", "cityscapes", "facades"] | None,
        typer.Option(
            metavar="NAME", help="Published options: coco, ade20k, cityscapes or facades.", rich_help_panel=NVLABS
        ),
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(metavar="N", help="Classes without the don't-care class.", rich_help_panel=NVLABS)
    ] = None,
    dont_care: Annotated[
        bool | None,
        typer.Option(
            "--dont-care/--no-dont-care", help="File value 255 is a class of its own.", rich_help_panel=NVLABS
        ),
    ] = None,
    instance: Annotated[
        bool | None,
        typer.Option("--instance/--no-instance", help="The last channel is instance edges.", rich_help_panel=NVLABS),
    ] = None,
    crop_size: Annotated[
        int | None, typer.Option(min=32, metavar="N", help="Width of the training images.", rich_help_panel=NVLABS)
    ] = None,
    aspect: Annotated[
        float | None,
        typer.Option(min=0.05, metavar="X", help="Width / height of the training images.", rich_help_panel=NVLABS),
    ] = None,
    upsampling: Annotated[
        Literal["normal", "more", "most"] | None,
        typer.Option(metavar="HOW", help="normal, more or most, as trained.", rich_help_panel=NVLABS),
    ] = None,
    norm: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="As trained, such as spectralspadesyncbatch3x3.", rich_help_panel=NVLABS),
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Convert weights to ONNX or TensorRT; import NVlabs checkpoints without running code in them.

    Example: spade convert weights/facades.safetensors --to onnx -o facades.onnx

    Checkpoint: spade convert latest_net_G.pth --encoder latest_net_E.pth --preset coco
    """
    ui = UI(quiet, verbose, as_json)
    from ..commands.convert.command import ConvertOptions, convert, parse_profile, parse_targets

    options = ConvertOptions(
        source=weights,
        output=output,
        encoder=encoder,
        half=half,
        metrics=tuple(metrics or ()),
        match_prior=match_prior,
        overwrite=overwrite,
        dry_run=dry_run,
        preset=preset,
        num_classes=num_classes,
        dont_care=dont_care,
        instance=instance,
        crop_size=crop_size,
        aspect=aspect,
        upsampling=upsampling,
        norm=norm,
        to=to,
        precision=precision,
        size=parse_fixed_size(size),
        profile=parse_profile(masks, samples),
        targets=parse_targets(target),
        verify=verify,
    )
    result = convert(options, ui)
    arch, labels = result.card.architecture, result.card.labels
    data = {
        "weights": str(result.path),
        "parameters": result.parameters,
        "architecture": arch.model_dump(mode="json"),
        "semantic_channels": labels.semantic_channels,
        "files": [str(p) for p in (result.path, *result.others)],
        "verification": result.verification.as_json() if result.verification else None,
    }
    verb = "would write" if dry_run else "wrote"
    size = f"{arch.size[0]}x{arch.size[1]}"
    lines = [
        f"{verb} {result.path}: {result.parameters / 1e6:.2f} M parameters, {labels.semantic_channels} channels, "
        f"{size}, latent {arch.latent}"
    ]
    lines += [f"{verb} {path}" for path in result.others]
    if result.verification:
        lines += result.verification.lines()
    ui.result(data, lines)
