"""``spade train``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ..core.allocator import use_huge_pages
from ..core.ranks import Ranks
from . import render_options as shared
from .help import INPUT, OUTPUT
from .ui import UI, AsJson, DryRun, Quiet, Verbose

if TYPE_CHECKING:
    from ..training.plan import TrainPlan

LONGEST_VALUE = 48


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="A name, a TOML file, or the folder of a run to resume.",
            show_default="the newest unfinished run, else ./recipe.toml, else facades",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", envvar="SPADE_TRAIN_SET", metavar="KEY=VALUE", help="Change a value of the recipe. Repeatable."
        ),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Start from weights, a run, or NVlabs NAME_net_G.pth (with E and D)."),
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option(min=0, metavar="X", help="Stop after this long; the run can be resumed.")
    ] = None,
    fit_minutes: Annotated[
        float | None, typer.Option(min=0.1, metavar="X", help="Choose the number of steps to take this long.")
    ] = None,
    device: shared.Device = "auto",
    init_labels: Annotated[
        str | None,
        typer.Option(
            metavar="RECIPE", help="Label space of --init, if its file does not hold it.", rich_help_panel=INPUT
        ),
    ] = None,
    runs: Annotated[Path, typer.Option(metavar="DIR", help="Folder of runs.", rich_help_panel=OUTPUT)] = Path("runs"),
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write TensorBoard events.", rich_help_panel=OUTPUT)
    ] = False,
    recalibrate: Annotated[
        bool,
        typer.Option(
            "--recalibrate",
            help="Measure batch-norm statistics of the averaged weights again.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Train a model, or resume a run that was interrupted.

    Example: spade train facades --set train.batch=8

    On many GPUs: torchrun --nproc-per-node 8 -m spadecli train coco-stuff
    """
    ui = UI(quiet, verbose, as_json)
    ranks = Ranks.from_environment()
    if dry_run and not ranks.is_main:
        return
    use_huge_pages()
    from ..commands.train.command import TrainOptions, train
    from ..training.plan import plan_training

    options = TrainOptions(
        recipe=recipe,
        overrides=tuple(set_ or ()),
        runs_dir=runs,
        device=device,
        init=init,
        init_labels=init_labels,
        recalibrate=recalibrate,
        max_minutes=max_minutes,
        fit_minutes=fit_minutes,
        tensorboard=tensorboard,
    )
    if dry_run:
        _show_plan(plan_training(options, ui), ui)
        return
    result = train(options, ui)
    if not ranks.is_main:
        return
    data = {
        "run": str(result.run_dir),
        "weights": str(result.weights),
        "best": str(result.best) if result.best else None,
        "recalibration": asdict(result.recalibration) if result.recalibration else None,
        "step": result.step,
        "steps": result.steps,
        "finished": result.finished,
        "parameters": result.parameters,
        "seconds": round(result.seconds, 1),
    }
    state = "finished" if result.finished else "stopped; spade train resumes it"
    lines = [
        f"{state}: step {result.step} of {result.steps}, {result.seconds:.0f} s",
        f"weights: {result.weights}",
    ]
    if result.best is not None:
        lines.append(f"best: {result.best}")
    if result.recalibration is not None:
        lines.append(result.recalibration.line)
    ui.result(data, lines)


def _show_plan(plan: TrainPlan, ui: UI) -> None:
    memory = {**asdict(plan.memory), "total": plan.memory.total}
    data = {
        "run": str(plan.run_dir),
        "recipe": plan.origin,
        "settings": [{"key": k, "value": v, "source": source} for k, v, source in plan.settings],
        "parameters": plan.parameters,
        "memory_bytes": memory,
        "pairs": plan.pairs,
        "steps": plan.steps,
        "steps_per_epoch": plan.steps_per_epoch,
        "stages": [
            {"size": list(stage.size), "batch": stage.batch, "first": stage.first, "end": stage.end}
            for stage in plan.stages
        ],
        "validation": list(plan.validation),
        "held_out": plan.held_out,
        "notes": list(plan.notes),
    }
    table = Table("setting", "value", "source", box=None)
    for key, value, source in plan.settings:
        table.add_row(escape(key), escape(_short(value)), escape(Path(source).name))
    counts = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in plan.parameters.items())
    parts = ", ".join(f"{name} {size / 2**30:.1f}" for name, size in memory.items() if name != "total")
    lines = [
        f"parameters: {counts}",
        f"memory, about: {plan.memory.total / 2**30:.1f} GiB ({parts}); train.batch changes the activations",
        *(stage.line for stage in plan.stages),
    ]
    if plan.stages:
        lines[1] += "; that of the largest stage"
    if "(" in plan.batch:
        lines.append(f"batch: {plan.batch}; memory is that of one process")
    if plan.steps_per_epoch is not None:
        held = f"; {plan.held_out} held out" * bool(plan.held_out)
        lines.append(f"{plan.pairs} pairs, {plan.steps_per_epoch:.1f} steps an epoch{held}")
        if plan.validation:
            shown = ", ".join(plan.validation[:5]) + " ..." * (len(plan.validation) > 5)
            lines.append(f"{len(plan.validation)} pairs kept out of training for validation: {shown}")
        lines.append(f"would train {plan.steps} steps into {plan.run_dir}")
    lines.extend(plan.notes)
    ui.result(data, lines, (table,))
    for text in (*plan.warnings, plan.missing):
        if text:
            ui.warn(text)


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= LONGEST_VALUE or not isinstance(value, list):
        return text
    return f"{text[:LONGEST_VALUE]} ... ({len(value)} in all)"
