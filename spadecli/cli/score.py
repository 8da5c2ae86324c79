"""``spade score``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from ..core.sizes import parse_size
from .ui import UI, AsJson, DryRun, Quiet, Verbose

if TYPE_CHECKING:
    from ..commands.score.distances import Distances
    from ..commands.score.protocol import Protocol
    from ..commands.score.result import ScoreResult
    from ..commands.score.segmentation import Segmentation


def score(
    renders: Annotated[
        Path | None, typer.Argument(help="Folder of renders.", show_default="the newest in this folder")
    ] = None,
    real: Annotated[
        Path | None,
        typer.Option(metavar="PHOTOS", help="Real photographs: a folder, or statistics that --save-real made."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="MASKS", help="Folder of masks.", show_default="as the manifest says")
    ] = None,
    segmenter: Annotated[
        str,
        typer.Option(
            metavar="FILE|DIR",
            help="What labels the renders: segmenter weights, ONNX, a model folder, predicted label maps.",
            show_default="shipped facades",
        ),
    ] = "",
    mapping: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Which class of the segmenter is which of the masks.")
    ] = None,
    protocol: Annotated[
        Literal["spade-paper", "oasis", "clean"] | None,
        typer.Option(help="Measure as a published evaluation did, as far as that is documented."),
    ] = None,
    extractor: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="TorchScript [N,3,H,W] in 0..255 -> [N,D]; segmenter: its features."),
    ] = None,
    inception: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The FID Inception (NVIDIA's TorchScript); its distance is FID.")
    ] = None,
    size: Annotated[
        str, typer.Option(metavar="HxW|native", help="Compare at this size; native is the renders' own.")
    ] = "native",
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAMES", help="Score these names, separated by commas; repeatable.")
    ] = None,
    holdout: Annotated[str, typer.Option(metavar="RECIPE", help="Score the names that a recipe holds out.")] = "",
    recipe: Annotated[
        str, typer.Option(metavar="RECIPE", help="The masks' label space.", show_default="that of the weights")
    ] = "",
    samples: Annotated[
        Literal["first", "all"] | None,
        typer.Option(help="Sample 0 of each mask, or every sample in the manifest.", show_default="first"),
    ] = None,
    label_resize: Annotated[
        Literal["to-image", "to-mask"] | None,
        typer.Option(help="Masks to the picture's size, or predictions to the mask's.", show_default="to-image"),
    ] = None,
    absent: Annotated[
        Literal["left-out", "if-predicted", "zero"] | None,
        typer.Option(help="Classes without a pixel in the masks, in the mean IoU.", show_default="left-out"),
    ] = None,
    perceptual: Annotated[
        Literal["auto", "vgg19", "squeezenet", "none"],
        typer.Option(help="Network of the diversity between samples; auto: the one that trained the weights."),
    ] = "auto",
    perceptual_weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its weights.", show_default="fetched once")
    ] = None,
    unpaired: Annotated[
        bool, typer.Option("--unpaired", help="Compare with photographs that are named otherwise.")
    ] = False,
    floor_only: Annotated[
        bool, typer.Option("--floor-only", help="Photographs against photographs; no renders.")
    ] = False,
    floor_from: Annotated[
        Path | None,
        typer.Option(metavar="PHOTOS", help="Draw the floor from here.", show_default="the other photographs"),
    ] = None,
    draws: Annotated[int, typer.Option(min=1, help="Draws of the floor.")] = 10,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the floor's draws and KID's subsets.")] = 0,
    weights: Annotated[
        Path | None, typer.Option("-w", "--weights", help="What made the renders; its card names its training loss.")
    ] = None,
    no_style: Annotated[
        bool, typer.Option("--no-style", help="Do not have the weights render, to see how much style they use.")
    ] = False,
    save_real: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the photographs' statistics, to give as --real later.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Scores file.", show_default="RENDERS/scores.h5"),
    ] = None,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no scores.html.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Pictures per call of a network.")] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    cache: Annotated[Path | None, typer.Option(help="Where features are kept.", show_default="~/.cache/spade")] = None,
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
    lines = []
    if s := result.segmentation:
        for name, own, beside in (
            ("mean IoU", s.mean_iou, s.photos and s.photos.mean_iou),
            ("pixel accuracy", s.accuracy, s.photos and s.photos.accuracy),
            ("frequency-weighted IoU", s.frequency_weighted_iou, s.photos and s.photos.frequency_weighted_iou),
        ):
            lines.append(f"{name}: {own:.1%}" + (f" (photographs: {beside:.1%})" if beside is not None else ""))
        if s.ratio is not None:
            lines.append(f"mean IoU, of the photographs': {s.ratio:.1%}")
    if d := result.diversity:
        lines.append(f"{d.name}: {d.mean:.4g} ± {d.deviation:.2g} over {len(d.masks)} masks")
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
