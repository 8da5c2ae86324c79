"""``spade train``: a recipe to weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..backends.torch_backend import pick_device
from ..core.errors import UserError
from ..core.report import Report, Silent
from ..data.dataset import TrainingSet
from ..model.perceptual import is_fetched
from ..model.trainer import Trainer
from ..store.run_folder import RunFolder, RunRecord
from .train_loop import TrainLoop, load_state, save_state, seconds_per_step
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

__all__ = ["TrainOptions", "TrainResult", "train"]


@dataclass(frozen=True)
class TrainResult:
    """Where a run stands. ``weights`` exist once the first checkpoint is written."""

    run_dir: Path
    weights: Path
    step: int
    steps: int
    parameters: dict[str, int]
    seconds: float

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

    with run.alone():
        if run.exists and run.state_path.is_file():
            trainer = Trainer(recipe, device)
            step, seconds = load_state(run.state_path, trainer)
            run.drop_stats_after(step)
        else:
            trainer, record = _begin(run, record, options, device, dataset, indices, report)
            step, seconds = 0, 0.0
        if step < record.steps:
            verb = f"going on at step {step} of" if step else "training"
            size = f"{record.steps} steps of {recipe.train.batch}, {len(indices)} pairs"
            report.note(f"{verb} {size}, {device}: {run.path}")
            loop = TrainLoop(trainer, dataset, indices, run, record, report)
            step, seconds = loop.run(step, seconds, options.max_minutes, options.tensorboard)
    return TrainResult(run.path, run.weights_path, step, record.steps, parameters, seconds)


def _begin(
    run: RunFolder,
    record: RunRecord,
    options: TrainOptions,
    device: torch.device,
    dataset: TrainingSet,
    indices: Sequence[int],
    report: Report,
) -> tuple[Trainer, RunRecord]:
    """A trainer at step 0, its state saved, so that a run goes on from what it began with whenever it dies."""
    if record.init is not None and options.init is None:
        raise UserError(
            f"{run.path}: began from {record.init.file}, and its state.pt is missing",
            hint="give the same --init again, or remove the folder",
        )
    trainer = new_trainer(record.recipe, device, options.init)
    if options.fit_minutes is not None:
        pace = seconds_per_step(trainer, dataset, indices, report)
        steps = max(1, round(60 * options.fit_minutes / pace))
        report.note(f"{pace:.3f} s a step: {steps} steps fit {options.fit_minutes:g} minutes")
        record = record.model_copy(update={"steps": steps})
        trainer = new_trainer(record.recipe, device, options.init)  # the timed steps were a rehearsal
    save_state(run.state_path, trainer, 0, 0.0)
    run.write(record)
    return trainer, record
