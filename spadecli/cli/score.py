"""``spade score``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from ..core.sizes import parse_size
from . import render_options as shared
from .help import INPUT, OUTPUT, SPEED
from .ui import UI, AsJson, DryRun, Quiet, Verbose

if TYPE_CHECKING:
    from ..commands.score.distances import Distances
    from ..commands.score.look import Looks
    from ..commands.score.protocol import Protocol
    from ..commands.score.result import ScoreResult
    from ..commands.score.segmentation import Segmentation

DISTANCES, SEGMENTATION, DIVERSITY = "Distances", "Segmentation", "Diversity and style"


def score(
    renders: Annotated[
        Path | None,
        typer.Argument(metavar="RENDERS", help="Folder of renders.", show_default="the newest in this folder"),
    ] = None,
    real: Annotated[
        Path | None, typer.Option(metavar="PHOTOS", help="Folder of photographs, or a file of --save-real.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="MASKS", help="Folder of masks.", show_default="as in the manifest")
    ] = None,
    segmenter: Annotated[
        str,
        typer.Option(
            metavar="FILE|DIR",
            help="Segmenter weights, ONNX, model folder or label maps.",
            show_default="shipped facades",
        ),
    ] = "",
    holdout: Annotated[str, typer.Option(metavar="RECIPE", help="Score the names that a recipe holds out.")] = "",
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="File of scores.", show_default="RENDERS/scores.h5"),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAMES", help="Score these names (comma-separated). Repeatable.", rich_help_panel=INPUT),
    ] = None,
    samples: Annotated[
        Literal["first", "all"] | None,
        typer.Option(
            metavar="WHICH", help="first or all samples of each mask.", show_default="first", rich_help_panel=INPUT
        ),
    ] = None,
    unpaired: Annotated[
        bool,
        typer.Option("--unpaired", help="Allow photographs not named like the masks.", rich_help_panel=INPUT),
    ] = False,
    recipe: Annotated[
        str,
        typer.Option(
            metavar="RECIPE",
            help="Label space of the masks.",
            show_default="that of the weights",
            rich_help_panel=INPUT,
        ),
    ] = "",
    mapping: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Classes of the segmenter to those of the masks.", rich_help_panel=INPUT),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "-w",
            "--weights",
            metavar="FILE",
            help="Weights of the renders.",
            show_default="as in the manifest",
            rich_help_panel=INPUT,
        ),
    ] = None,
    protocol: Annotated[
        Literal["spade-paper", "oasis", "clean"] | None,
        typer.Option(
            metavar="NAME", help="Published protocol: spade-paper, oasis or clean.", rich_help_panel=DISTANCES
        ),
    ] = None,
    extractor: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="TorchScript [N,3,H,W] in 0..255 -> [N,D], or segmenter.", rich_help_panel=DISTANCES
        ),
    ] = None,
    inception: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The FID Inception, NVIDIA's TorchScript.", rich_help_panel=DISTANCES),
    ] = None,
    size: Annotated[
        str,
        typer.Option(
            metavar="HxW", help="Compare at this size, or native for the renders' own.", rich_help_panel=DISTANCES
        ),
    ] = "native",
    floor_only: Annotated[
        bool, typer.Option("--floor-only", help="Photographs against photographs only.", rich_help_panel=DISTANCES)
    ] = False,
    floor_from: Annotated[
        Path | None,
        typer.Option(
            metavar="PHOTOS",
            help="Photographs of the floor.",
            show_default="the others of --real",
            rich_help_panel=DISTANCES,
        ),
    ] = None,
    draws: Annotated[int, typer.Option(min=1, metavar="N", help="Draws of the floor.", rich_help_panel=DISTANCES)] = 10,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            max=2**32 - 1,
            metavar="N",
            help="Seed of the floor's draws and KID's subsets.",
            rich_help_panel=DISTANCES,
        ),
    ] = 0,
    label_resize: Annotated[
        Literal["to-image", "to-mask"] | None,
        typer.Option(
            metavar="HOW",
            help="Masks to-image, or predictions to-mask.",
            show_default="to-image",
            rich_help_panel=SEGMENTATION,
        ),
    ] = None,
    absent: Annotated[
        Literal["left-out", "if-predicted", "zero"] | None,
        typer.Option(
            metavar="HOW",
            help="Absent classes: left-out, if-predicted or zero.",
            show_default="left-out",
            rich_help_panel=SEGMENTATION,
        ),
    ] = None,
    perceptual: Annotated[
        Literal["auto", "vgg19", "vgg16", "squeezenet", "none"],
        typer.Option(
            metavar="NAME", help="vgg19, vgg16, squeezenet, none; auto: as the loss.", rich_help_panel=DIVERSITY
        ),
    ] = "auto",
    perceptual_weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Its weights.", show_default="fetched once", rich_help_panel=DIVERSITY),
    ] = None,
    lpips: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="LPIPS weights, or fetch.", show_default="if installed", rich_help_panel=DIVERSITY
        ),
    ] = None,
    no_style: Annotated[
        bool, typer.Option("--no-style", help="Do not measure how much style is used.", rich_help_panel=DIVERSITY)
    ] = False,
    save_real: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep the photographs' statistics for --real.", rich_help_panel=OUTPUT),
    ] = None,
    no_report: Annotated[
        bool, typer.Option("--no-report", help="Write no scores.html.", rich_help_panel=OUTPUT)
    ] = False,
    device: shared.Device = "auto",
    batch: Annotated[
        int, typer.Option(min=1, metavar="N", help="Pictures per network call.", rich_help_panel=SPEED)
    ] = 32,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder of cached features.", show_default="~/.cache/spade", rich_help_panel=SPEED
        ),
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Measure whether renders show what their masks say, and how far they are from photographs.

    Example: spade score renders/ --real data/facades/photos --holdout facades
    """
    ui = UI(quiet, verbose, as_json)
    requested = parse_size(size)
    from ..commands.score.command import ScoreOptions, plan_score
    from ..commands.score.command import score as run
    from ..commands.score.sets import newest_renders

    options = ScoreOptions(
        renders=None if floor_only else renders or newest_renders(),
        real=real,
        labels=labels,
        extractor=extractor,
        inception=inception,
        segmenter=segmenter,
        mapping=mapping,
        recipe=recipe,
        protocol=protocol,
        size=None if requested == "native" else requested,
        only=tuple(name.strip() for text in only or () for name in text.split(",") if name.strip()),
        holdout=holdout,
        unpaired=unpaired,
        floor_from=floor_from,
        samples=samples,
        label_resize=label_resize,
        absent=absent,
        perceptual=perceptual,
        perceptual_weights=perceptual_weights,
        lpips=lpips,
        weights=weights,
        style=not no_style,
        draws=draws,
        seed=seed,
        batch=batch,
        device=device,
        cache=cache,
        save_real=save_real,
        out=out,
        report=not no_report,
    )
    if dry_run:
        plan = plan_score(options, ui, fetch=False)
        from dataclasses import asdict

        ui.result({"protocol": asdict(plan.protocol)}, _protocol_lines(plan.protocol))
        return
    result = run(options, ui)
    ui.result(result.as_json(), [*_closing_lines(result), *_protocol_lines(result.protocol)], _tables(result))


def _tables(result: ScoreResult) -> tuple[Table, ...]:
    tables = [_distance_table(d) for d in result.distances]
    if result.look:
        tables.append(_look_table(result.look))
    if result.segmentation:
        tables.append(_class_table(result.segmentation))
    return tuple(tables)


def _distance_table(d: Distances) -> Table:
    from ..commands.score.words import distance_rows

    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("renders", justify="right", no_wrap=True)
    floor = f"floor: {d.floor.count} other photographs" if d.floor else "floor"
    table.add_column(floor, justify="right", no_wrap=True)
    for name, own, beside in distance_rows(d):
        table.add_row(escape(name), own or "-", beside or "-")
    return table


def _look_table(looks: Looks) -> Table:
    from ..commands.score.words import look_rows

    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in ("renders", "photographs"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in look_rows(looks):
        table.add_row(*row)
    return table


def _class_table(s: Segmentation) -> Table:
    photos = s.photos is not None
    table = Table(box=None, pad_edge=False)
    table.add_column("class", no_wrap=True)
    for name in ("IoU", "accuracy", "pixels", *(("photos' IoU",) if photos else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for c in s.classes:
        beside = [_share(c.photo_iou)] if photos else []
        table.add_row(escape(c.name), _share(c.iou), _share(c.accuracy), f"{c.pixels:,}", *beside)
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _closing_lines(result: ScoreResult) -> list[str]:
    """The means, what was not run, and the files."""
    from ..commands.score.words import diversity_row

    lines = []
    if s := result.segmentation:
        for name, own, beside in (
            ("mean IoU", s.mean_iou, s.photos and s.photos.mean_iou),
            ("pixel accuracy", s.accuracy, s.photos and s.photos.accuracy),
            ("frequency-weighted IoU", s.frequency_weighted_iou, s.photos and s.photos.frequency_weighted_iou),
        ):
            lines.append(f"{name}: {own:.1%}" + (f" (photographs: {beside:.1%})" if beside is not None else ""))
        if s.ratio is not None:
            lines.append(f"mean IoU relative to photographs: {s.ratio:.1%}")
    lines += [": ".join(diversity_row(d)) for d in (result.diversity, result.lpips) if d]
    if result.style:
        lines += [f"{name}: {value}" for name, value in result.style.rows()]
    for what, path in (("scores", result.path), ("report", result.report)):
        if path:
            lines.append(f"{what}: {path}")
    return [*lines, ""]


def _protocol_lines(p: Protocol) -> list[str]:
    from ..commands.score.words import protocol_words

    lines = [f"{name}: {value}" for name, value in protocol_words(p)]
    lines = [lines[0], *(f"  {line}" for line in lines[1:])]
    lines += [f"  documented: {fact}" for fact in p.facts]
    lines += [f"  not known: {doubt}" for doubt in p.uncertain]
    return [*lines, *(f"not run: {what}: {why}" for what, why in p.not_run.items())]
