"""``spade train``: a recipe to weights."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from ...core.errors import UserError
from ...core.ranks import World, check_split
from ...core.recipe import Recipe
from ...core.report import Muted, Report, Silent
from ...data.dataset import TrainingSet
from ...store.run_folder import RunFolder, RunRecord
from ...training.distributed import Processes, join
from ...training.export import DEFAULT_BATCHES, Export, Recalibration
from ...training.init_from import Start, open_start
from ...training.memory import describe_batch, fetch_perceptual, process_device
from ...training.run import TrainLoop, load_state, run_card, save_state, seconds_per_step
from ...training.setup import (
    TrainOptions,
    check_tensorboard,
    count_parameters,
    new_trainer,
    open_data,
    resolve_recipe,
    run_folder,
    run_record,
    unseen_classes,
)
from ...training.step import Trainer
from ...training.validate import Validator
from ...training.warnings import never_seen

__all__ = ["TrainOptions", "TrainResult", "train"]


@dataclass(frozen=True)
class TrainResult:
    """Where a run stands. ``weights`` exist once the first checkpoint is written.

    best: weights of the lowest validation distance, None where none was measured. recalibration: what measuring the
    batch-norm statistics anew changed, where it was asked for and the run is finished.
    """

    run_dir: Path
    weights: Path
    step: int
    steps: int
    parameters: dict[str, int]
    seconds: float
    best: Path | None = None
    recalibration: Recalibration | None = None

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step == self.steps


def train(options: TrainOptions, report: Report | None = None) -> TrainResult:
    """Train, or go on training. Raises UserError for wrong recipes, missing data, or another run in the run folder.

    Started by torchrun in several processes, each of them calls this and gets the same result or error.
    Ctrl-C and SIGTERM save first, then raise KeyboardInterrupt.
    """
    world = World.from_environment()
    with join(world) as processes:
        return _train(options, (report or Silent()) if world.is_first else Muted(), processes)


def _train(options: TrainOptions, report: Report, processes: Processes) -> TrainResult:
    """What every process of a run does; process 0 alone reads the recipe and writes the run folder."""
    first, everywhere = processes.first, processes.everywhere
    resolved = first(resolve_recipe, options, report)
    recipe = resolved.recipe
    first(check_split, recipe.train.batch, recipe.train.accumulate, processes.world.size)
    device = everywhere(process_device, options.device, processes.world)
    processes.use(device)
    if options.tensorboard:
        first(check_tensorboard)
    dataset, indices = everywhere(open_data, resolved)
    processes.agree(
        f"{recipe.data.packed}: the content", dataset.packed.sha256, "copy process 0's file to all machines"
    )
    run = first(run_folder, options, recipe)
    record = first(run_record, run, resolved, options, dataset.packed.sha256, len(indices))
    parameters = count_parameters(recipe)
    everywhere(fetch_perceptual, recipe, processes.world, report)
    # what process 0 alone starts from and validates with is not sent around
    start = processes.only_first(_start_of, options, recipe, run)
    first(_say_what_is_known, recipe, dataset, indices, start, run, report)
    batches = recipe.train.recalibrate or (DEFAULT_BATCHES if options.recalibrate else 0)
    is_over = record.finished and not options.recalibrate
    validator = None
    if recipe.validation.every and not is_over:
        validator = processes.only_first(Validator, recipe, dataset, run, device)

    recalibration = None
    with ExitStack() as held:
        # a killed run's loaders hold its lock for some seconds more, and torchrun is quicker than that
        first(lambda: held.enter_context(run.alone(patience=30 if processes.world.restarts else 0)))
        if first(lambda: run.exists and run.state_path.is_file()):
            trainer = everywhere(Trainer, recipe, device)
            step, seconds = first(load_state, run.state_path, trainer)
            trainer.distribute(processes)
            first(run.drop_stats_after, step)
        else:
            trainer, record = _begin(run, record, options, device, dataset, indices, start, report, processes)
            step, seconds = 0, 0.0
        export = Export(trainer, dataset, indices, batches)
        if step < record.steps:
            verb = f"going on at step {step} of" if step else "training"
            size = f"{record.steps} steps of {describe_batch(recipe, processes.world)}, {len(indices)} pairs"
            report.note(f"{verb} {size}, {device.type if processes.many else device}: {run.path}")
            loop = TrainLoop(trainer, dataset, indices, run, record, report, export, validator)
            step, seconds = loop.run(step, seconds, options.max_minutes, options.tensorboard)
        elif options.recalibrate:
            card = run_card(recipe, record, step, seconds, trainer, len(indices))
            first(export.save, run.weights_path, card, step)
        if batches and step == record.steps and not is_over:
            recalibration = first(export.effect, step, validator)
    best = first(lambda: run.best_path if run.best_path.is_file() else None)
    return TrainResult(run.path, run.weights_path, step, record.steps, parameters, seconds, best, recalibration)


def _start_of(options: TrainOptions, recipe: Recipe, run: RunFolder) -> Start | None:
    """What a run that does not exist yet starts from."""
    return open_start(options.init, recipe, options.init_labels) if options.init and not run.exists else None


def _say_what_is_known(
    recipe: Recipe,
    dataset: TrainingSet,
    indices: Sequence[int],
    start: Start | None,
    run: RunFolder,
    report: Report,
) -> None:
    """Before a run's first step: what it starts from, what its data lack, what its validation cannot tell."""
    if run.exists:
        return
    for line in start.lines(recipe) if start else ():
        report.note(line)
    if text := never_seen(unseen_classes(dataset, indices)):
        report.warn(text)
    validation = recipe.validation
    if validation.every and not (validation.extractor or validation.inception):
        report.note("validation: no extractor is set, so no distance is measured and no best weights are kept")
    if validation.every and start and start.may_know(recipe):
        report.warn(
            f"{start.file.name} learned from the same data, the validation pairs probably among them: "
            "their distance flatters, but still compares the steps of this run"
        )


def _begin(
    run: RunFolder,
    record: RunRecord,
    options: TrainOptions,
    device: torch.device,
    dataset: TrainingSet,
    indices: Sequence[int],
    start: Start | None,
    report: Report,
    processes: Processes,
) -> tuple[Trainer, RunRecord]:
    """A trainer at step 0, its state saved, so that a run goes on from what it began with whenever it dies."""
    init = options.init
    if record.init is not None and init is not None:  # also where a run has lost its first state
        begun = start
        start = processes.only_first(lambda: begun or open_start(init, record.recipe, options.init_labels))
    processes.first(_check_begun_from, run, record, start)

    def fresh() -> Trainer:
        trainer = processes.everywhere(new_trainer, record.recipe, device, start)  # the others get process 0's
        trainer.distribute(processes)
        return trainer

    trainer = fresh()
    if options.fit_minutes is not None:
        timed = seconds_per_step(trainer, dataset, indices, report)
        pace = processes.first(lambda: timed)
        steps = max(1, round(60 * options.fit_minutes / pace))
        report.note(f"{pace:.3f} s a step: {steps} steps fit {options.fit_minutes:g} minutes")
        record = record.model_copy(update={"steps": steps})
        trainer = fresh()  # the timed steps were a rehearsal
    processes.first(save_state, run.state_path, trainer, 0, 0.0)
    processes.first(run.write, record)
    return trainer, record


def _check_begun_from(run: RunFolder, record: RunRecord, start: Start | None) -> None:
    """Refuse to begin anew, from fresh networks, what began from weights."""
    if record.init is not None and start is None:
        raise UserError(
            f"{run.path}: began from {record.init.file}, and its state.pt is missing",
            hint="give the same --init again, or remove the folder",
        )
