"""``spade train``: a recipe to weights."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from ...compute.devices import device_of_rank, fp32_math
from ...core.errors import UserError
from ...core.ranks import Ranks
from ...core.recipe import Recipe
from ...core.recipe_files import Resolved
from ...core.report import Muted, Report, Silent
from ...core.stages import Stage, stages_of, steps_in_proportion
from ...data.dataset import TrainingSet
from ...data.training_pairs import open_data, unseen_classes
from ...store.run_folder import RunFolder, RunRecord
from ...training.checkpoint import read_state, restore, save_state, stage_of
from ...training.distributed import Processes, join
from ...training.export import DEFAULT_BATCHES, Recalibration, WeightsExporter
from ...training.init_from import InitWeights, open_init
from ...training.run import TrainingRun, run_card, seconds_per_step
from ...training.setup import (
    TrainOptions,
    check_batches,
    check_discriminator_first,
    check_tensorboard,
    count_parameters,
    describe_batch,
    fetch_perceptual,
    new_trainer,
    resolve_recipe,
    run_folder,
    run_record,
    settle_precision,
)
from ...training.step import Trainer
from ...training.validate import Validator
from ...training.warnings import never_seen

__all__ = ["TrainOptions", "TrainResult", "train"]


@dataclass(frozen=True)
class TrainResult:
    """Where a run stands. ``weights`` exist once the first checkpoint is written.

    best: weights of the lowest validation distance, None if none was measured. recalibration: what measuring the
    batch-norm statistics again changed; None unless it was requested and the run is finished.
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
    """Train, or resume a run. Raises UserError for wrong recipes, missing data, or another run in the run folder.

    Started by torchrun in several processes, each of them calls this and gets the same result or error.
    Ctrl-C and SIGTERM save first, then raise KeyboardInterrupt.
    """
    ranks = Ranks.from_environment()
    with join(ranks) as processes:
        return _train(options, (report or Silent()) if ranks.is_main else Muted(), processes)


def _train(options: TrainOptions, report: Report, processes: Processes) -> TrainResult:
    """What every process of a run does; the main one alone reads the recipe and writes the run folder."""
    on_main_broadcast, on_all = processes.on_main_broadcast, processes.on_all

    # What to train, on which device.
    resolved = on_main_broadcast(resolve_recipe, options, report)
    recipe = resolved.recipe
    on_main_broadcast(check_batches, recipe, processes.ranks.size)
    device = processes.use(on_all(device_of_rank, options.device, processes.ranks))
    with fp32_math(recipe.train.precision == "tf32"):  # validation, sheets and recalibration included
        return _train_on(device, resolved, options, report, processes)


def _train_on(
    device: torch.device, resolved: Resolved, options: TrainOptions, report: Report, processes: Processes
) -> TrainResult:
    """Train a resolved recipe on this process's device."""
    on_main, on_main_broadcast, on_all = processes.on_main, processes.on_main_broadcast, processes.on_all
    recipe = resolved.recipe
    if options.tensorboard:
        on_main_broadcast(check_tensorboard)

    # On which pairs.
    dataset, indices = on_all(open_data, resolved)
    processes.check_equal(
        f"{recipe.data.packed}: the content", dataset.packed.sha256, "copy the main process's file to all machines"
    )

    # From where, and with what beside it. What the main process alone starts from and validates with is not sent.
    folder = on_main_broadcast(run_folder, options, recipe)
    record = on_main_broadcast(run_record, folder, resolved, options, dataset.packed.sha256, len(indices))
    on_main_broadcast(check_discriminator_first, recipe, record.steps)
    record = on_main_broadcast(settle_precision, record, device, report)
    recipe = record.trained_recipe
    on_all(fetch_perceptual, recipe, processes.ranks, report)
    init = on_main(_init_of, options, recipe, folder)
    on_main(_say_what_is_known, recipe, dataset, indices, init, folder, report)
    recalibrated = recipe.train.recalibrate or (DEFAULT_BATCHES if options.recalibrate else 0)
    nothing_left = record.finished and not options.recalibrate
    validator = None
    if recipe.validation.every and not nothing_left:
        validator = on_main(Validator, recipe, dataset, folder, device)

    recalibration = None
    with ExitStack() as held:
        # a killed run's loaders hold its lock for some more seconds, and torchrun restarts faster than that
        on_main(lambda: held.enter_context(folder.exclusive(patience=30 if processes.ranks.restarts else 0)))

        # Resume, or begin.
        if on_main_broadcast(lambda: folder.exists and folder.state_path.is_file()):
            trainer, number, step, seconds = _resume(folder, record, device, processes)
        else:
            trainer, record = _begin(folder, record, options, device, dataset, indices, init, report, processes)
            number, step, seconds = 1, 0, 0.0

        # Train, or write the weights of a finished run again.
        stages = stages_of(recipe, record.steps)
        if step < record.steps:
            verb = f"resuming at step {step} of" if step else "training"
            batches = f"in {len(stages)} stages" if len(stages) > 1 else f"of {describe_batch(recipe, processes.ranks)}"
            size = f"{record.steps} steps {batches}, {len(indices)} pairs"
            report.note(f"{verb} {size}, {device.type if processes.many else device}: {folder.path}")
            run = TrainingRun(
                trainer, number, dataset, indices, folder, record, report, recalibrated, validator, options.tensorboard
            )
            step, seconds = run.run(step, seconds, options.max_minutes)
            exporter = run.exporter
        else:
            exporter = WeightsExporter(trainer, dataset, indices, recalibrated)
            if options.recalibrate:
                card = run_card(stages, record, step, seconds, trainer, len(indices))
                on_main(exporter.save, folder.weights_path, card, step)
        if recalibrated and step == record.steps and not nothing_left:
            recalibration = on_main_broadcast(exporter.effect, step, validator)
    best = on_main_broadcast(lambda: folder.best_path if folder.best_path.is_file() else None)
    return TrainResult(
        folder.path, folder.weights_path, step, record.steps, count_parameters(recipe), seconds, best, recalibration
    )


def _init_of(options: TrainOptions, recipe: Recipe, folder: RunFolder) -> InitWeights | None:
    """What a run that does not exist yet starts from."""
    return open_init(options.init, recipe, options.init_labels) if options.init and not folder.exists else None


def _say_what_is_known(
    recipe: Recipe,
    dataset: TrainingSet,
    indices: Sequence[int],
    init: InitWeights | None,
    folder: RunFolder,
    report: Report,
) -> None:
    """Before a run's first step: what it starts from, what its data lack, what its validation cannot measure."""
    if folder.exists:
        return
    for line in init.lines(recipe) if init else ():
        report.note(line)
    if text := never_seen(unseen_classes(dataset, indices)):
        report.warn(text)
    validation = recipe.validation
    if validation.every and not (validation.extractor or validation.inception):
        report.note("validation: no extractor is set, so no distance is measured and no best weights are kept")
    if validation.every and init and init.may_have_seen(recipe):
        report.warn(
            f"{init.file.name} learned from the same data, the validation pairs probably among them: "
            "their distance flatters, but still compares the steps of this run"
        )


def _resume(
    folder: RunFolder, record: RunRecord, device: torch.device, processes: Processes
) -> tuple[Trainer, int, int, float]:
    """A trainer from the run's last state, the number of its stage, the step, and the seconds of the run so far."""
    state = processes.on_main(read_state, folder.state_path, device) or {}
    number = processes.on_main_broadcast(lambda: stage_of(state))
    trainer = processes.on_all(Trainer, stages_of(record.trained_recipe, record.steps)[number - 1].recipe, device)
    step, seconds = processes.on_main_broadcast(restore, folder.state_path, state, trainer)
    trainer.distribute(processes)
    processes.on_main(folder.drop_stats_after, step)
    return trainer, number, step, seconds


def _begin(
    folder: RunFolder,
    record: RunRecord,
    options: TrainOptions,
    device: torch.device,
    dataset: TrainingSet,
    indices: Sequence[int],
    init: InitWeights | None,
    report: Report,
    processes: Processes,
) -> tuple[Trainer, RunRecord]:
    """A trainer at step 0, its state saved, so that a run resumes from what it began with whenever it dies."""
    path = options.init
    if record.init is not None and path is not None:  # also for a run that has lost its first state
        opened = init
        init = processes.on_main(lambda: opened or open_init(path, record.recipe, options.init_labels))
    processes.on_main(_check_begun_from, folder, record, init)

    stages = stages_of(record.trained_recipe, record.steps)

    def fresh(stage: Stage) -> Trainer:
        trainer = processes.on_all(new_trainer, stage.recipe, device, init)  # the others get the main process's
        trainer.distribute(processes)
        return trainer

    if options.fit_minutes is not None:
        # on trainers that are gone before the run's own is made: two may not fit into memory
        timed = [seconds_per_step(fresh(s), dataset.at_size_of(s.recipe), indices, report) for s in stages]
        paces = processes.on_main_broadcast(lambda: timed)
        steps = steps_in_proportion(stages, paces, 60 * options.fit_minutes)
        shown = ", ".join(f"{pace:.3f}" for pace in paces)
        report.note(f"{shown} s a step: {steps} steps fit {options.fit_minutes:g} minutes")
        record = record.model_copy(update={"steps": steps})
    trainer = fresh(stages[0])
    processes.on_main(save_state, folder.state_path, trainer, 0, 0.0)
    processes.on_main(folder.write, record)
    return trainer, record


def _check_begun_from(folder: RunFolder, record: RunRecord, init: InitWeights | None) -> None:
    """Refuse to start from fresh networks again what began from weights."""
    if record.init is not None and init is None:
        raise UserError(
            f"{folder.path}: began from {record.init.file}, and its state.pt is missing",
            hint="give the same --init again, or remove the folder",
        )
