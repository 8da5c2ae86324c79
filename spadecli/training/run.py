"""The training loop, and the files it writes to the run folder."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from ..compute.devices import hardware_name
from ..core.errors import UserError
from ..core.parallel import num_cores
from ..core.report import Report, Task
from ..core.signals import graceful_stop
from ..core.stages import Stage, stages_of
from ..data.dataset import Batch, StepSampler, StepWindows, TrainingSet, start_worker
from ..store.run_folder import RunFolder, RunRecord, append_row, read_rows
from ..weights.card import Card
from ..windows.collate import collate_for
from .checkpoint import save_state
from .ema import averaged_networks
from .export import WeightsExporter
from .memory import memory_advice
from .sheets import SampleSheet, plot_losses
from .stages import carry_over
from .step import Trainer
from .validate import Validator
from .warnings import Notice, notice_of_discriminator, notice_of_style

TIMED_STEPS = 50


class TrainingRun:
    """The training loop, with what is logged, drawn, validated and saved between steps.

    stage: the number of the stage (from 1) that ``trainer`` is of; the later ones follow. recalibrated: number of
    batches on which the batch-norm statistics of exported weights are measured.
    """

    def __init__(
        self,
        trainer: Trainer,
        stage: int,
        dataset: TrainingSet,
        indices: Sequence[int],
        folder: RunFolder,
        record: RunRecord,
        report: Report,
        recalibrated: int = 0,
        validator: Validator | None = None,
        tensorboard: bool = False,
    ) -> None:
        self.indices, self.recalibrated, self.validator = indices, recalibrated, validator
        self.folder, self.record, self.report = folder, record, report
        self.steps, self.processes = record.steps, trainer.processes
        self.stages = stages_of(record.trained_recipe, record.steps)
        self._whole = dataset
        self._begin_stage(trainer, self.stages[stage - 1])
        self.tensorboard = tensorboard and self.processes.is_main
        self.stats = folder.stats()  # kept in memory, so that the log is not read again for every new row
        self.board: Any = None
        self.validated = ""  # the last validation, for the progress bar

    def run(self, step: int, seconds_before: float, max_minutes: float | None = None) -> tuple[int, float]:
        """Train from ``step`` on; return the step reached and the seconds of the whole run.

        Raises KeyboardInterrupt after Ctrl-C or SIGTERM, once everything is saved.
        """
        recipe, train = self.record.recipe, self.record.recipe.train  # what all stages have in common
        on_main = self.processes.on_main  # the main process works, the others wait
        started = logged_at = time.monotonic()
        deadline = started + 60 * max_minutes if max_minutes is not None else math.inf
        logged_step = step

        def seconds() -> float:
            return seconds_before + time.monotonic() - started

        self.board = _tensorboard(self.folder.path) if self.tensorboard else None
        try:
            with (
                graceful_stop(self.processes.many) as stopped,
                self.report.progress(recipe.name, self.steps, step) as bar,
            ):
                for batch in self._batches(step):
                    # One step.
                    staged = self.stage.of > 1
                    with memory_advice(self.trainer.recipe, self.trainer.device, self.processes.ranks, staged):
                        scale = lr_scale(step / self.steps, train.decay_from)
                        self.trainer.step(batch, scale, step >= train.discriminator_first)
                    step += 1
                    bar.advance()

                    # Decide what is due; the processes agree on whether this step is the last.
                    last = step == self.steps or self.processes.any(stopped() or time.monotonic() > deadline)
                    save = last or step == self.stage.end or step % train.checkpoint_every == 0
                    log = save or step % train.log_every == 0
                    every = recipe.validation.every
                    validate = bool(every) and (step == self.steps or step % every == 0)
                    draw = last or step % train.sample_every == 0

                    # Log, and check that losses and weights are finite before they are saved.
                    if log:
                        rate = (step - logged_step) * self.stage.batch / (time.monotonic() - logged_at)
                        terms = self.trainer.pop_losses(step - logged_step)
                        on_main(self._log, step, step - logged_step, terms, rate, seconds(), bar)
                        logged_step, logged_at = step, time.monotonic()
                    paused_at = time.monotonic()

                    # Validate, draw, save.
                    if validate:
                        on_main(self._validate, step, seconds())
                    if draw:
                        on_main(self._draw, step)
                    if save:
                        on_main(self._save, step, seconds())
                    if last:
                        break
                    logged_at += time.monotonic() - paused_at  # pauses do not count in the training speed
        finally:
            if self.board is not None:
                self.board.close()
        if self.processes.any(stopped()):
            self.report.note(f"interrupted at step {step} of {self.steps}; everything is saved, spade train resumes")
            raise KeyboardInterrupt
        return step, seconds()

    def _batches(self, step: int) -> Iterator[Batch]:
        """Yield the batch of every step from ``step`` on; before the first batch of another stage, begin that stage.

        A state at the end of a stage is that stage's, so that a run resumed there does what an uninterrupted one does.
        """
        for stage in self.stages[self.stage.number - 1 :]:
            if stage.of > 1 and step < stage.end:
                self.report.note(stage.line)
            if stage is not self.stage:
                trainer = self.processes.on_all(carry_over, self.trainer, stage.recipe)
                trainer.distribute(self.processes)
                self._begin_stage(trainer, stage)
            yield from training_loader(self.dataset, self.indices, self.trainer, step, stage.end, stage.shift)
            step = stage.end

    def _begin_stage(self, trainer: Trainer, stage: Stage) -> None:
        """From now on train, export, draw and validate at the size of a stage."""
        recipe = stage.recipe
        self.trainer, self.stage, self.dataset = trainer, stage, self._whole.at_size_of(recipe)
        self.exporter = WeightsExporter(trainer, self.dataset, self.indices, self.recalibrated)
        self.sheet = SampleSheet(recipe, self.dataset)
        self.processes.on_main(self._validate_like, stage)

    # Called in the main process only; the others wait.

    def _validate_like(self, stage: Stage) -> None:
        if self.validator is not None and self.validator.recipe.model.size != stage.size:
            self.validator.use(stage.recipe, self.dataset)

    def _log(self, step: int, steps: int, terms: dict[str, float], rate: float, seconds: float, bar: Task) -> None:
        self._check(terms, step, steps)
        row: dict[str, float] = {
            "step": step,
            "epoch": round(self.stage.images(step) / len(self.indices), 3),
            "seconds": round(seconds, 2),
            "images_per_second": round(rate, 2),
            "lr_scale": round(lr_scale(step / self.steps, self.record.recipe.train.decay_from), 6),
        }
        if self.stage.of > 1:
            row["stage"] = self.stage.number
        row |= {name: float(f"{value:.6g}") for name, value in terms.items()}
        self.folder.append_stats(row)
        self.stats.append(row)
        self._tell(notice_of_discriminator(self.stats))
        of_d = terms["d_fake"] + terms["d_real"]
        status = f"G {terms['g_hinge']:.2f} FM {terms['feature_matching']:.2f} D {of_d:.2f} {rate:.1f} img/s"
        status += self.validated
        bar.advance(0, status)
        self.report.note(f"step {step}: {status}", 1)
        if self.board is not None:
            for name, value in terms.items():
                self.board.add_scalar(name, value, step)

    def _check(self, terms: dict[str, float], step: int, steps: int) -> None:
        """Raise UserError, before anything is saved, if losses or weights are not finite."""
        broken = [name for name, value in terms.items() if not math.isfinite(value)]
        broken += [f"weights of the {name}" for name in self.trainer.nonfinite()]
        if broken or terms["skipped"] > steps:
            reason = f"{', '.join(broken)} not finite" if broken else f"{terms['skipped']:.0f} updates skipped"
            raise UserError(
                f"{self.folder.path}: training diverged before step {step}: {reason}",
                hint="the last checkpoint is intact; lower train.lr_g and train.lr_d, or set train.precision=fp32",
            )
        if terms["skipped"]:
            self.report.warn(f"step {step}: {terms['skipped']:.0f} updates skipped: their gradients were not finite")

    def _validate(self, step: int, seconds: float) -> None:
        assert self.validator is not None
        found = self.validator.look(step, self.exporter.states(step))
        self.validated = found.status
        self.report.note(found.line)
        if found.is_best:
            self.exporter.save(self.folder.best_path, self._card(step, seconds), step)
        if self.board is not None and found.distance is not None:
            self.board.add_scalar("validation", found.distance, step)

    def _draw(self, step: int) -> None:
        folder = self.folder
        networks = averaged_networks(self.stage.recipe, self.exporter.states(step), self.trainer.device)
        spread = self.sheet.draw(*networks, folder.samples_dir / f"step_{step:07d}.png")
        if spread is not None:
            append_row(folder.sheets_path, {"step": step, "spread_over_z": float(f"{spread:.6g}")})
            self._tell(notice_of_style(read_rows(folder.sheets_path)))
        plot_losses(self.stats, folder.losses_path, read_rows(folder.validation_path))

    def _save(self, step: int, seconds: float) -> None:
        save_state(self.folder.state_path, self.trainer, step, seconds, self.stage.number)
        self.exporter.save(self.folder.weights_path, self._card(step, seconds), step)
        if step == self.steps:
            self.folder.write(self.record.model_copy(update={"finished": True}))

    def _card(self, step: int, seconds: float) -> Card:
        return run_card(self.stages[: self.stage.number], self.record, step, seconds, self.trainer, len(self.indices))

    def _tell(self, news: Notice | None) -> None:
        if news is not None:
            (self.report.warn if news.is_warning else self.report.note)(news.text)


def lr_scale(progress: float, decay_from: float) -> float:
    """Return the learning rate factor at ``progress`` (0..1) of a run: 1 up to ``decay_from``, then linearly to 0."""
    return 1.0 if progress <= decay_from else (1 - progress) / (1 - decay_from)


def seconds_per_step(trainer: Trainer, dataset: TrainingSet, indices: Sequence[int], report: Report) -> float:
    """Measure the seconds of a training step over ``TIMED_STEPS`` steps, after a warm-up of a tenth of that."""
    warm_up = TIMED_STEPS // 10
    loader = training_loader(dataset, indices, trainer, 0, TIMED_STEPS + warm_up)
    started = 0.0
    with report.progress("timing", TIMED_STEPS + warm_up) as bar:
        for i, batch in enumerate(loader):
            if i == warm_up:
                trainer.pop_losses(1)  # waits for the device
                started = time.monotonic()
            trainer.step(batch, 1.0)
            bar.advance()
    trainer.pop_losses(1)
    return (time.monotonic() - started) / TIMED_STEPS


def training_loader(
    dataset: TrainingSet, indices: Sequence[int], trainer: Trainer, first_step: int, steps: int, shift: int = 0
) -> DataLoader[Batch]:
    """Load this process's share of each step's batch. shift: see StepSampler."""
    train, ranks = trainer.recipe.train, trainer.processes.ranks
    share: Callable[..., Any] = partial(ranks.share, accumulate=train.accumulate)
    windows = StepWindows.of(trainer.recipe)
    sampler = StepSampler(indices, train.batch, train.seed, first_step, steps, share, windows, shift)
    workers = min(train.num_workers, max(1, num_cores() // ranks.local_size))
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate_for(trainer.recipe, trainer.device, train.accumulate),
        pin_memory=trainer.device.type == "cuda",
        prefetch_factor=4 if workers else None,
        worker_init_fn=start_worker if workers else None,
    )


def _tensorboard(run_dir: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run_dir / "tensorboard"))


def run_card(
    stages: Sequence[Stage], record: RunRecord, step: int, seconds: float, trainer: Trainer, num_samples: int
) -> Card:
    """Build the card of the run's weights. Paths are cut to file names, as folders mean nothing elsewhere.

    stages: up to the one that ``step`` is in.
    """
    recipe = stages[-1].recipe
    plain = record.recipe.model_dump(mode="json")
    for key in ("photos", "masks", "instances", "outside", "packed"):
        plain["data"][key] = Path(plain["data"][key]).name
    plain["loss"]["perceptual_weights"] = Path(plain["loss"]["perceptual_weights"]).name
    plain["discriminator"]["features_weights"] = Path(plain["discriminator"]["features_weights"]).name
    for key in ("extractor", "inception", "segmenter"):
        plain["validation"][key] = Path(plain["validation"][key]).name
    trained = [
        {"size": list(stage.size), "batch": stage.batch, "steps": min(step, stage.end) - stage.first}
        for stage in stages
        if stage.of > 1
    ]
    return Card(
        name=recipe.name,
        architecture=recipe.model,
        labels=recipe.labels,
        description=recipe.description,
        licence=recipe.data.licence,
        parent=f"{record.init.file} sha256 {record.init.sha256}" if record.init else "",
        recipe=plain,
        training={
            "data": recipe.data.source,
            "samples": num_samples,
            "held_out": len(recipe.data.holdout),
            "data_sha256": record.data_sha256,
            "steps": step,
            "of_steps": record.steps,
            **({"stages": trained} if trained else {}),
            "images": stages[-1].images(step),
            "seconds": round(seconds, 1),
            "precision": recipe.train.precision,
            "hardware": hardware_name(trainer.device),
            "processes": trainer.processes.ranks.size,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    )
