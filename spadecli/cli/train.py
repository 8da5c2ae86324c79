"""``spade train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .ui import UI, AsJson, DryRun, Quiet, Verbose


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A shipped recipe's name or a TOML file. Default: the newest unfinished run, else ./recipe.toml, "
            "else facades."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a value of the recipe, for example train.batch=8. Repeatable."),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of runs; this one goes to RUNS/<recipe name>/.")] = Path("runs"),
    init: Annotated[Path | None, typer.Option(help="Start from these weights (.safetensors).")] = None,
    max_minutes: Annotated[float | None, typer.Option(min=0, help="Stop after so long; resumable.")] = None,
    fit_minutes: Annotated[
        float | None, typer.Option(min=0.1, help="Time 50 steps, then fix the number of steps to take so long.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard events.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Train a model, or go on training where it was interrupted.

    Example: spade train facades --set train.batch=8
    """
    ui = UI(quiet, verbose, as_json)
    from ..commands.train import TrainOptions, train

    options = TrainOptions(
        recipe=recipe,
        overrides=tuple(set_ or ()),
        runs_dir=runs,
        device=device,
        init=init,
        max_minutes=max_minutes,
        fit_minutes=fit_minutes,
        tensorboard=tensorboard,
        dry_run=dry_run,
    )
    result = train(options, ui)
    data = {
        "run": str(result.run_dir),
        "weights": str(result.weights),
        "step": result.step,
        "steps": result.steps,
        "finished": result.finished,
        "parameters": result.parameters,
        "seconds": round(result.seconds, 1),
    }
    if dry_run:
        counts = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in result.parameters.items())
        lines = [f"would train {result.steps} steps into {result.run_dir}", f"parameters: {counts}"]
    else:
        state = "finished" if result.finished else "stopped; spade train goes on"
        lines = [f"{state}: step {result.step} of {result.steps}, {result.seconds:.0f} s"]
        lines.append(f"weights: {result.weights}")
    ui.result(data, lines)
