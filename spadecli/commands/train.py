"""``spade train``: a recipe to weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..backends.torch_backend import pick_device
from ..core.errors import UserError
from ..core.recipe import Recipe
from ..core.report import Report, Silent
from ..data.dataset import TrainingSet
from ..model.perceptual import is_fetched
from ..model.trainer import Trainer
from ..store.run_folder import RunFolder, RunRecord
from .train_export import DEFAULT_BATCHES, Export, Recalibration
from .train_loop import TrainLoop, load_state, run_card, save_state, seconds_per_step
from .train_setup import (
    TrainOptions,
    check_tensorboard,
    count_parameters,
    new_trainer,
    open_data,
    resolve_recipe,
    run_folder,
    run_record,
)
from .train_start import Start, open_start
from .train_watch import never_seen
from .validation import Validator

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

    Ctrl-C and SIGTERM save first, then raise KeyboardInterrupt.
    """
    report = report or Silent()
    resolved = resolve_recipe(options, report)
    recipe = resolved.recipe
    device = pick_device(options.device)
    if options.tensorboard:
        check_tensorboard()
    dataset, indices = open_data(resolved)
    run = run_folder(options, recipe)
    record = run_record(run, resolved, options, dataset.packed.sha256, len(indices))
    parameters = count_parameters(recipe)
    network = recipe.loss.perceptual_network
    if network != "none" and not recipe.loss.perceptual_weights and not is_fetched(network):
        report.note(f"fetching {network} for the perceptual loss, once")

    start = open_start(options.init, recipe, options.init_labels) if options.init and not run.exists else None
    _say_what_is_known(recipe, dataset, start, run, report)
    batches = recipe.train.recalibrate or (DEFAULT_BATCHES if options.recalibrate else 0)
    is_over = record.finished and not options.recalibrate
    validator = Validator(recipe, dataset, run, device) if recipe.validation.every and not is_over else None

    recalibration = None
    with run.alone():
        if run.exists and run.state_path.is_file():
            trainer = Trainer(recipe, device)
            step, seconds = load_state(run.state_path, trainer)
            run.drop_stats_after(step)
        else:
            trainer, record = _begin(run, record, options, device, dataset, indices, start, report)
            step, seconds = 0, 0.0
        export = Export(trainer, dataset, indices, batches)
        if step < record.steps:
            verb = f"going on at step {step} of" if step else "training"
            size = f"{record.steps} steps of {recipe.train.batch}, {len(indices)} pairs"
            report.note(f"{verb} {size}, {device}: {run.path}")
            loop = TrainLoop(trainer, dataset, indices, run, record, report, export, validator)
            step, seconds = loop.run(step, seconds, options.max_minutes, options.tensorboard)
        elif options.recalibrate:
            card = run_card(recipe, record, step, seconds, device, len(indices))
            export.save(run.weights_path, card, step)
        if batches and step == record.steps and not is_over:
            recalibration = export.effect(step, validator)
    best = run.best_path if run.best_path.is_file() else None
    return TrainResult(run.path, run.weights_path, step, record.steps, parameters, seconds, best, recalibration)


def _say_what_is_known(
    recipe: Recipe, dataset: TrainingSet, start: Start | None, run: RunFolder, report: Report
) -> None:
    """Before a run's first step: what it starts from, what its data lack, what its validation cannot tell."""
    if run.exists:
        return
    for line in start.lines(recipe) if start else ():
        report.note(line)
    if text := never_seen(dataset.packed.report.get("classes", ())):
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
) -> tuple[Trainer, RunRecord]:
    """A trainer at step 0, its state saved, so that a run goes on from what it began with whenever it dies."""
    if record.init is not None and start is None and options.init is not None:
        start = open_start(options.init, record.recipe, options.init_labels)  # the run has lost its first state
    if record.init is not None and start is None:
        raise UserError(
            f"{run.path}: began from {record.init.file}, and its state.pt is missing",
            hint="give the same --init again, or remove the folder",
        )
    trainer = new_trainer(record.recipe, device, start)
    if options.fit_minutes is not None:
        pace = seconds_per_step(trainer, dataset, indices, report)
        steps = max(1, round(60 * options.fit_minutes / pace))
        report.note(f"{pace:.3f} s a step: {steps} steps fit {options.fit_minutes:g} minutes")
        record = record.model_copy(update={"steps": steps})
        trainer = new_trainer(record.recipe, device, start)  # the timed steps were a rehearsal
    save_state(run.state_path, trainer, 0, 0.0)
    run.write(record)
    return trainer, record
