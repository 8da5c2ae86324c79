"""``spade train-segmenter``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from .ui import UI, AsJson, DryRun, Quiet, Verbose

if TYPE_CHECKING:
    from ..segmenter.card import SegmenterCard
    from ..segmenter.plan import SegmenterPlan


def train_segmenter(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name or a TOML file.")] = "facades",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a value of the recipe, for example model.size=[128,128]. Repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder of the run. Default: runs/<recipe name>-segmenter.")
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.05, help="Time a few steps, then train as many as fit.")] = 30,
    steps: Annotated[int | None, typer.Option(min=1, help="Train exactly so many steps instead.")] = None,
    test: Annotated[
        Path | None,
        typer.Option(metavar="PACKED", help="Score it on this packed file, where the recipe holds nothing out."),
    ] = None,
    validate: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Leave out every Nth training pair and score on those: for choosing settings without a look at the "
            "held-out pairs.",
        ),
    ] = 0,
    width: Annotated[int, typer.Option(min=4, max=256, help="Channels of the first level.")] = 24,
    batch: Annotated[int, typer.Option(min=2, help="Windows a step.")] = 8,
    lr: Annotated[float, typer.Option(min=1e-6, max=1, help="Highest learning rate.")] = 3e-3,
    balance: Annotated[
        float, typer.Option(min=0, max=1, help="How far the loss makes up for rare classes, 0 to 1.")
    ] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, order and windows.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    quiet: Quiet = False,
    verbose: Verbose = 0,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Train a compact segmenter on a recipe's real pairs, for the mean IoU of renders.

    Example: spade train-segmenter facades --minutes 30

    The pairs in data.holdout are never trained on; at the end it is scored on them once, beside two baselines: the most
    frequent class, and a classifier that sees a pixel's colour and position only. Ctrl-C saves, the same line goes on.
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
    ui.result(data, lines)
