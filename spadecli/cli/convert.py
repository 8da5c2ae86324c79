"""``spade convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..core.sizes import parse_fixed_size
from .ui import UI, AsJson, DryRun, Quiet, Verbose


def convert(
    weights: Annotated[Path, typer.Argument(help=".safetensors, or NVlabs latest_net_G.pth.", show_default=False)],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Default: beside the input.")] = None,
    to: Annotated[
        Literal["safetensors", "onnx", "tensorrt", "tensorrt-rtx"], typer.Option("--to", help="Kind of file to write.")
    ] = "safetensors",
    precision: Annotated[
        Literal["fp32", "fp16", "bf16"], typer.Option(help="Of ONNX and engines, fixed in the file.")
    ] = "fp32",
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Image size of ONNX and engines.", show_default="the training size"),
    ] = None,
    masks: Annotated[
        str | None,
        typer.Option(metavar="MIN,OPT,MAX", help="Masks that an engine takes in a call.", show_default="1,4,8"),
    ] = None,
    samples: Annotated[
        str | None,
        typer.Option(metavar="MIN,OPT,MAX", help="Samples a mask that it takes.", show_default="1,1,4"),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="SM,...", help="GPUs of a tensorrt-rtx engine, such as sm75,sm86.", show_default="sm80 and later"
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare with torch, and leave nothing that differs too much.")
    ] = True,
    encoder: Annotated[Path | None, typer.Option(help="NVlabs latest_net_E.pth.")] = None,
    preset: Annotated[
        Literal["coco", "ade20k", "cityscapes", "facades"] | None, typer.Option(help="A published model's options.")
    ] = None,
    num_classes: Annotated[int | None, typer.Option(help="Classes, without the don't-care class.")] = None,
    dont_care: Annotated[
        bool | None, typer.Option("--dont-care/--no-dont-care", help="File value 255 is a class of its own.")
    ] = None,
    instance: Annotated[
        bool | None, typer.Option("--instance/--no-instance", help="An instance-edge channel comes last.")
    ] = None,
    crop_size: Annotated[int | None, typer.Option(min=32, help="Width of the training images.")] = None,
    aspect: Annotated[float | None, typer.Option(min=0.05, help="Width / height of the training images.")] = None,
    upsampling: Annotated[Literal["normal", "more", "most"] | None, typer.Option(help="As trained.")] = None,
    norm: Annotated[str | None, typer.Option(help="NVlabs' option, such as spectralspadesyncbatch3x3.")] = None,
    half: Annotated[bool, typer.Option("--half", help="Write float16: half the size.")] = False,
    metrics: Annotated[
        list[Path] | None, typer.Option(help="JSON that joins the card's metrics, as spade score --json prints it.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Convert weights to ONNX or TensorRT; import NVlabs/SPADE checkpoints without running any code in them.

    Example: spade convert weights/facades.safetensors --to onnx -o facades.onnx

    A checkpoint: spade convert latest_net_G.pth --encoder latest_net_E.pth --preset coco
    """
    ui = UI(quiet, verbose, as_json)
    from ..commands.convert.command import ConvertOptions, convert, parse_profile, parse_targets

    options = ConvertOptions(
        source=weights,
        output=output,
        encoder=encoder,
        half=half,
        metrics=tuple(metrics or ()),
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
