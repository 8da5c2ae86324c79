"""``spade train-segmenter``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from . import render_options as shared
from .help import CHECKS
from .ui import UI, AsJson, DryRun, Quiet, Verbose

if TYPE_CHECKING:
    from ..segmenter.card import SegmenterCard
    from ..segmenter.plan import SegmenterPlan

TRAINING = "Network and training"


def train_segmenter(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A name or a TOML file.")] = "facades",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe. Repeatable."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="DIR", help="Folder of the run.", show_default="runs/<recipe>-segmenter"),
    ] = None,
    minutes: Annotated[
        float, typer.Option(min=0.05, metavar="X", help="Choose the number of steps to take this long.")
    ] = 30,
    steps: Annotated[int | None, typer.Option(min=1, metavar="N", help="Train this many steps instead.")] = None,
    device: shared.Device = "auto",
    test: Annotated[
        Path | None,
        typer.Option(
            metavar="PACKED", help="Packed file to score on, if the recipe holds none out.", rich_help_panel=CHECKS
        ),
    ] = None,
    validate: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Score on every Nth training pair instead, to choose settings.",
            show_default=False,
            rich_help_panel=CHECKS,
        ),
    ] = 0,
    width: Annotated[
        int, typer.Option(min=4, max=256, metavar="N", help="Channels of the first level.", rich_help_panel=TRAINING)
    ] = 24,
    batch: Annotated[int, typer.Option(min=2, metavar="N", help="Crops per step.", rich_help_panel=TRAINING)] = 8,
    lr: Annotated[
        float, typer.Option(min=1e-6, max=1, metavar="X", help="Highest learning rate.", rich_help_panel=TRAINING)
    ] = 3e-3,
    balance: Annotated[
        float,
        typer.Option(min=0, max=1, metavar="X", help="Weighting of rare classes, 0 to 1.", rich_help_panel=TRAINING),
    ] = 0.5,
    seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="Seed of weights, order and crops.", rich_help_panel=TRAINING)
    ] = 0,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Train a compact segmenter on a recipe's real pairs, for the mean IoU of renders.

    Example: spade train-segmenter facades --minutes 30

    The pairs of data.holdout are only scored on, once, beside two baselines: the most frequent class, and a classifier
    by colour and position alone. Ctrl-C saves; the same command resumes.
    """
    ui = UI(quiet, verbose, as_json)
    from ..commands.train_segmenter import command

    options = command.TrainSegmenterOptions(
        recipe=recipe,
        overrides=tuple(set_ or ()),
        out=out,
        minutes=minutes,
        steps=steps,
        test=test,
        validate=validate,
        device=device,
        width=width,
        batch=batch,
        lr=lr,
        balance=balance,
        seed=seed,
    )
    if dry_run:
        _show_plan(command.plan_segmenter(options), minutes, ui)
        return
    result = command.train_segmenter(options, ui)
    card = result.card
    data = {
        "run": str(result.run_dir),
        "weights": str(result.weights),
        "steps": result.steps,
        "seconds": round(result.seconds, 1),
        "miou_real": card.miou_real,
        "miou_majority": card.miou_majority,
        "miou_color_position": card.miou_color_position,
        "beats_baselines": card.beats_baselines,
        "metrics": card.metrics,
    }
    ui.result(data, _lines(card, str(result.weights)), _tables(card))


def _tables(card: SegmenterCard) -> tuple[Table, ...]:
    if not card.metrics:
        return ()
    means = Table(box=None)
    for name in ("", "mean IoU", "pixel accuracy", "frequency-weighted IoU"):
        means.add_column(name, justify="right" if name else "left")
    words = {"segmenter": "segmenter", "majority": "most frequent class", "color_position": "colour and position"}
    for key, shown in words.items():
        row = card.metrics[key]
        means.add_row(shown, *(f"{row[k]:.4f}" for k in ("mean_iou", "pixel_accuracy", "frequency_weighted_iou")))
    classes = Table(box=None)
    classes.add_column("class")
    classes.add_column("IoU", justify="right")
    for name, value in card.metrics["class_iou"].items():
        classes.add_row(name, f"{value:.4f}")
    return classes, means


def _lines(card: SegmenterCard, weights: str) -> list[str]:
    lines = [f"{weights}: {card.training['steps']} steps, {card.training['seconds']:.0f} s"]
    if not card.metrics:
        return [*lines, "not scored: the recipe holds no pairs out; --test PACKED or --validate 9 names some"]
    from ..segmenter.card import MARGIN

    verdict = "beats" if card.beats_baselines else "does not beat"
    return [f"protocol: {card.metrics['protocol']}", f"{verdict} both baselines by {MARGIN} mean IoU", *lines]


def _show_plan(plan: SegmenterPlan, minutes: float, ui: UI) -> None:
    length = f"{plan.steps} steps" if plan.steps else f"about {minutes:g} minutes"
    data = {
        "run": str(plan.run_dir),
        "recipe": plan.origin,
        "parameters": plan.parameters,
        "unseen": len(plan.unseen),
        "unseen_are": plan.unseen_are,
        "steps": plan.steps,
        "minutes": None if plan.steps else minutes,
        "settings": plan.settings(),
    }
    height, width = plan.arch.size
    lines = [
        f"network: {plan.parameters / 1e6:.2f} M parameters, {height}x{width}, {plan.device}",
        f"{len(plan.fitted)} pairs of {plan.packed.path} to train on",
        f"{len(plan.unseen)} to score on: {plan.unseen_are}",
        f"would train {length} into {plan.run_dir}",
    ]
    if plan.precision_line:
        lines.append(plan.precision_line)
    ui.result(data, lines)
