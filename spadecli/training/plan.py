"""``spade train --dry-run``: a run's settings and their sources, its length and its memory, before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..compute.devices import device_of_rank
from ..compute.precision import PrecisionChoice, choose_precision
from ..core.errors import UserError
from ..core.ranks import Ranks
from ..core.report import Report, Silent
from ..core.stages import Stage, stages_of
from ..data.split import split_pairs
from ..data.training_pairs import open_data, unseen_classes
from .init_from import open_init
from .memory import Memory, estimate_memory
from .setup import (
    TrainOptions,
    check_batches,
    check_tensorboard,
    count_parameters,
    describe_batch,
    resolve_recipe,
    run_folder,
    run_record,
)
from .validate import check_validation
from .warnings import never_seen

Setting = tuple[str, Any, str]


@dataclass(frozen=True)
class TrainPlan:
    """A run before it starts. ``pairs``, ``steps`` and ``steps_per_epoch`` are None if they need data that is missing.

    settings: (key, value, source) of every value. memory: of the stage that needs most. batch: how it is split over
    processes. stages: those of a recipe that has some. steps_per_epoch: the mean over them. missing: one line that says
    why the data cannot be read, or "".
    validation: names of the pairs kept out of training for validation. held_out: number of pairs in data.holdout.
    notes: what --init carries over, and what ``train.precision = "auto"`` takes.
    warnings: problems of the data that do not prevent training.
    """

    run_dir: Path
    origin: str
    settings: tuple[Setting, ...]
    parameters: dict[str, int]
    memory: Memory
    batch: str
    pairs: int | None
    steps: int | None
    steps_per_epoch: float | None
    missing: str
    stages: tuple[Stage, ...] = ()
    validation: tuple[str, ...] = ()
    held_out: int = 0
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def plan_training(options: TrainOptions, report: Report | None = None) -> TrainPlan:
    """Plan what :func:`spadecli.commands.train.command.train` would do, without writing anything.

    Raises UserError like it, except for missing packed data, which ``missing`` reports.
    """
    resolved = resolve_recipe(options, report or Silent())
    recipe = resolved.recipe
    ranks = Ranks.from_environment()
    check_batches(recipe, ranks.size)
    run = run_folder(options, recipe)
    device = device_of_rank(options.device, ranks)
    if options.tensorboard:
        check_tensorboard()
    check_validation(recipe, options.device)
    start = open_init(options.init, recipe, options.init_labels) if options.init else None
    pairs, steps, missing, precision = None, recipe.train.steps, "", None
    validation: tuple[str, ...] = ()
    held_out, unseen = 0, ""
    try:
        dataset, indices = open_data(resolved)
    except UserError as e:
        if Path(recipe.data.packed).is_file():
            raise
        missing = f"{e.message}: {e.hint}"
    else:
        pairs = len(indices)
        names = dataset.packed.names
        split = split_pairs(names, recipe)
        validation, held_out = tuple(names[i] for i in split.validation), len(split.held_out)
        unseen = never_seen(unseen_classes(dataset, indices))
        record = run_record(run, resolved, options, dataset.packed.sha256, pairs)
        steps, precision = record.steps, record.precision
    notes = list(start.lines(recipe)) if start else []
    if recipe.train.precision == "auto":
        choice = choose_precision(device) if precision is None else PrecisionChoice(precision, "as the run began")
        notes.append(choice.line)
        recipe = recipe.with_precision(choice.precision)
    stages = stages_of(recipe, steps or 1)
    memories = [estimate_memory(stage.recipe, ranks.size) for stage in stages]
    return TrainPlan(
        run_dir=run.path,
        origin=resolved.origin,
        settings=tuple(resolved.settings()),
        parameters=count_parameters(recipe),
        memory=max(memories, key=lambda memory: memory.total),
        batch=" or ".join(dict.fromkeys(describe_batch(stage.recipe, ranks) for stage in stages)),
        stages=stages if recipe.stage else (),
        pairs=pairs,
        steps=steps,
        steps_per_epoch=None if pairs is None or steps is None else pairs * steps / stages[-1].images(steps),
        missing=missing,
        validation=validation,
        held_out=held_out,
        notes=tuple(notes),
        warnings=(unseen,) if unseen else (),
    )
