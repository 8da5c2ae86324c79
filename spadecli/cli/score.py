"""``spade score``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..core.sizes import format_size, parse_size
from .ui import UI, AsJson, DryRun, Quiet, Verbose

if TYPE_CHECKING:
    from ..commands.score import ScoreResult
    from ..commands.score_protocol import Protocol


def score(
    real: Annotated[Path, typer.Option(metavar="PHOTOS", help="Folder of real photographs.")],
    renders: Annotated[Path, typer.Argument(help="Folder of renders.")] = Path("renders"),
    extractor: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TorchScript [N,3,H,W] in 0..255 -> [N,D].")
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
    samples: Annotated[
        Literal["first", "all"], typer.Option(help="Sample 0 of each mask, or every sample in the manifest.")
    ] = "first",
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
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Scores file.", show_default="RENDERS/scores.h5")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures per call of the extractor.")] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    cache: Annotated[Path | None, typer.Option(help="Where features are kept.", show_default="~/.cache/spade")] = None,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Measure how far renders are from real photographs, beside the floor that photographs have among themselves.

    Example: spade score renders/ --real data/facades/photos --holdout facades
    """
    from ..commands.score import ScoreOptions, plan_score
    from ..commands.score import score as run

    ui = UI(quiet, verbose, as_json)
    requested = parse_size(size)
    options = ScoreOptions(
        renders=None if floor_only else renders,
        real=real,
        extractor=extractor,
        inception=inception,
        size=None if requested == "native" else requested,
        only=tuple(name.strip() for text in only or () for name in text.split(",") if name.strip()),
        holdout=holdout,
        floor_from=floor_from,
        samples=samples,
        weights=weights,
        draws=draws,
        seed=seed,
        batch=batch,
        device=device,
        cache=cache,
        out=out,
    )
    if dry_run:
        plan = plan_score(options, ui)
        ui.result({"protocol": vars(plan.protocol)}, _protocol_lines(plan.protocol))
        return
    result = run(options, ui)
    ui.result(result.as_json(), [*_result_lines(result), "", *_protocol_lines(result.protocol)])


def _result_lines(result: ScoreResult) -> list[str]:
    """The distances, each beside its floor."""
    lines = []
    if result.frechet is not None and result.kernel is not None:
        several = result.kernel.subsets > 1
        lines.append(f"{result.frechet_name}: {result.frechet:.5g}")
        lines.append(f"{result.kernel_name}: {_with_deviation(result.kernel.mean, result.kernel.deviation, several)}")
    if floor := result.floor:
        several = floor.draws > 1
        lines.append(f"floor, {floor.count} other photographs against the real ones, {floor.draws} draws:")
        lines.append(
            f"  {result.frechet_name}: {_with_deviation(floor.frechet_mean, floor.frechet_deviation, several)}"
        )
        lines.append(f"  {result.kernel_name}: {_with_deviation(floor.kernel_mean, floor.kernel_deviation, several)}")
    return lines


def _with_deviation(mean: float, deviation: float, several: bool) -> str:
    if not several:
        return f"{mean:.5g}"
    return f"{mean:.5g} ± {deviation:.0f}" if deviation >= 10 else f"{mean:.5g} ± {deviation:.2g}"


def _protocol_lines(p: Protocol) -> list[str]:
    """The protocol, for people."""
    lines = [
        f"protocol: {p.split}; compared at {format_size(p.size)}, {p.resize}",
        f"  real: {p.real_count} from {p.real} ({_sizes(p.real_sizes)})",
        f"  extractor: {p.extractor}, {p.dimensions} dimensions, sha256 {p.extractor_sha256}",
        f"  extractor was also a training loss: {p.extractor_was_training_loss}",
    ]
    if p.renders:
        words = f"{p.render_count} from {p.renders} ({_sizes(p.render_sizes)}), samples: {p.samples}, {p.paired} paired"
        lines.insert(1, f"  renders: {words}")
        lines.insert(2, f"  weights: {p.weights or 'unknown'} {p.weights_sha256}".rstrip())
    if p.floor_draws:
        lines.append(f"  floor: {p.floor_draws} draws of {p.floor_count} from {p.floor_from}, seed {p.seed}")
    return lines


def _sizes(sizes: dict[str, int]) -> str:
    return ", ".join(f"{n} of {size}" for size, n in sizes.items())
