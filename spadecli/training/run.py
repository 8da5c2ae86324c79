"""The training loop, from one step to the last, and what it leaves in the run folder."""

from __future__ import annotations

import math
import os
import platform
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from ..core.errors import UserError
from ..core.recipe import Recipe
from ..core.report import Report, Task
from ..data.dataset import Batch, StepSampler, TrainingSet
from ..store.atomic import part_file
from ..store.run_folder import RunFolder, RunRecord, append_row, read_rows
from ..weights.card import Card
from ..windows.collate import collate_for
from .ema import averaged_networks
from .export import Export
from .memory import memory_advice
from .sheets import SampleSheet, plot_losses
from .step import Trainer
from .validate import Validator
from .warnings import News, news_of_discriminator, news_of_style

TIMED_STEPS = 50


class TrainLoop:
    """The training loop: batch, step, and now and then a log row, a sheet, a checkpoint."""

    def __init__(
        self,
        trainer: Trainer,
        dataset: TrainingSet,
        indices: Sequence[int],
        run: RunFolder,
        record: RunRecord,
        report: Report,
        export: Export,
        validator: Validator | None = None,
    ) -> None:
        self.trainer, self.dataset, self.indices = trainer, dataset, indices
        self.export, self.validator = export, validator
        self.run_folder, self.record, self.report = run, record, report
        self.recipe = trainer.recipe
        self.steps = record.steps
        self.processes = trainer.processes
        self.sheet = SampleSheet(self.recipe, dataset)
        self.board: Any = None
        self.found = ""  # the last validation, for the progress bar

    def run(
        self, step: int, seconds_before: float, max_minutes: float | None = None, tensorboard: bool = False
    ) -> tuple[int, float]:
        """Train from ``step`` on; returns the step reached and the seconds of the whole run."""
        train, logged_step = self.recipe.train, step
        first = self.processes.first  # process 0 logs, draws, validates and saves, while the others wait
        self.board = _tensorboard(self.run_folder.path) if tensorboard and self.processes.is_first else None
        started = logged_at = time.monotonic()
        deadline = started + 60 * max_minutes if max_minutes is not None else float("inf")
        loader = _loader(self.dataset, self.indices, self.trainer, step, self.steps)
        with (
            graceful_stop(self.processes.many) as stopped,
            self.report.progress(self.recipe.name, self.steps, step) as bar,
        ):
            for batch in loader:
                # one step
                with memory_advice(self.recipe, self.trainer.device, self.processes.world):
                    self.trainer.step(batch, lr_scale(step / self.steps, train.decay_from))
                step += 1
                bar.advance()
                last = step == self.steps or self.processes.any(stopped() or time.monotonic() > deadline)
                save = last or step % train.checkpoint_every == 0

                # a row in stats.jsonl, and a look at the numbers before they are saved
                if save or step % train.log_every == 0:
                    rate = (step - logged_step) * train.batch / (time.monotonic() - logged_at)
                    seconds = seconds_before + time.monotonic() - started
                    terms = self.trainer.take_terms(step - logged_step)
                    first(self._log, step, step - logged_step, terms, rate, seconds, bar)
                    logged_step, logged_at = step, time.monotonic()
                paused_at = time.monotonic()

                # validation
                every = self.recipe.validation.every
                if every and (step == self.steps or step % every == 0):
                    first(self._validate, step, seconds_before + time.monotonic() - started)

                # sample sheet and curves
                if last or step % train.sample_every == 0:
                    first(self._draw, step)

                # checkpoint
                if save:
                    first(self._save, step, seconds_before + time.monotonic() - started)
                if last:
                    break
                logged_at += time.monotonic() - paused_at  # what is done between two steps is no training
        if self.processes.any(stopped()):
            self.report.note(f"interrupted at step {step} of {self.steps}, all of it saved; spade train goes on")
            raise KeyboardInterrupt
        return step, seconds_before + time.monotonic() - started

    def _log(self, step: int, steps: int, terms: dict[str, float], rate: float, seconds: float, bar: Task) -> None:
        self._check(terms, step, steps)
        row: dict[str, float] = {
            "step": step,
            "epoch": round(step * self.recipe.train.batch / len(self.indices), 3),
            "seconds": round(seconds, 2),
            "images_per_second": round(rate, 2),
            "lr_scale": round(lr_scale(step / self.steps, self.recipe.train.decay_from), 6),
        }
        row |= {name: float(f"{value:.6g}") for name, value in terms.items()}
        self.run_folder.append_stats(row)
        self._tell(news_of_discriminator(self.run_folder.stats()))
        hinge = terms["d_fake"] + terms["d_real"]
        status = (
            f"G {terms['g_hinge']:.2f} FM {terms['feature_matching']:.2f} D {hinge:.2f} {rate:.1f} img/s{self.found}"
        )
        bar.advance(0, status)
        self.report.note(f"step {step}: {status}", 1)
        if self.board is not None:
            for name, value in terms.items():
                self.board.add_scalar(name, value, step)

    def _check(self, terms: dict[str, float], step: int, steps: int) -> None:
        """Stop, before anything is saved, where the numbers are no longer numbers."""
        broken = [name for name, value in terms.items() if not math.isfinite(value)]
        broken += [f"weights of the {name}" for name in self.trainer.broken()]
        if broken or terms["skipped"] > steps:
            reason = f"{', '.join(broken)} not finite" if broken else f"{terms['skipped']:.0f} updates left out"
            raise UserError(
                f"{self.run_folder.path}: training diverged before step {step}: {reason}",
                hint="the last checkpoint is whole; lower train.lr_g and train.lr_d, or set train.precision=fp32",
            )
        if terms["skipped"]:
            self.report.warn(f"step {step}: {terms['skipped']:.0f} updates left out, their gradients were not finite")

    def _draw(self, step: int) -> None:
        run = self.run_folder
        networks = averaged_networks(self.recipe, self.export.states(step), self.trainer.device)
        spread = self.sheet.draw(*networks, run.samples_dir / f"step_{step:07d}.png")
        if spread is not None:
            append_row(run.sheets_path, {"step": step, "spread_over_z": float(f"{spread:.6g}")})
            self._tell(news_of_style(read_rows(run.sheets_path)))
        plot_losses(run.stats(), run.losses_path, read_rows(run.validation_path))

    def _validate(self, step: int, seconds: float) -> None:
        assert self.validator is not None
        found = self.validator.look(step, self.export.states(step))
        self.found = found.status
        self.report.note(found.line)
        if found.is_best:
            self.export.save(self.run_folder.best_path, self._card(step, seconds), step)
        if self.board is not None and found.distance is not None:
            self.board.add_scalar("validation", found.distance, step)

    def _tell(self, news: News | None) -> None:
        if news is not None:
            (self.report.warn if news.is_warning else self.report.note)(news.text)

    def _save(self, step: int, seconds: float) -> None:
        save_state(self.run_folder.state_path, self.trainer, step, seconds)
        self.export.save(self.run_folder.weights_path, self._card(step, seconds), step)
        if step == self.steps:
            self.run_folder.write(self.record.model_copy(update={"finished": True}))

    def _card(self, step: int, seconds: float) -> Card:
        return run_card(self.recipe, self.record, step, seconds, self.trainer, len(self.indices))


def lr_scale(progress: float, decay_from: float) -> float:
    """Learning rate factor at ``progress`` (0..1) of a run: 1, then linearly to 0 from ``decay_from`` on."""
    return 1.0 if progress <= decay_from else (1 - progress) / (1 - decay_from)


def save_state(path: Path, trainer: Trainer, step: int, seconds: float) -> None:
    """Write state.pt in one step."""
    with part_file(path) as part:
        torch.save({"format": "spade-state", "step": step, "seconds": seconds, "trainer": trainer.state_dict()}, part)


def load_state(path: Path, trainer: Trainer) -> tuple[int, float]:
    """Restore a trainer from state.pt; returns its step and the seconds spent so far."""
    state = read_state(path, trainer.device)
    try:
        trainer.load_state_dict(state["trainer"])
        return int(state["step"]), float(state["seconds"])
    except Exception as e:
        raise _damaged(path, e) from e


def read_state(path: Path, device: torch.device | None = None) -> dict[str, Any]:
    """What :func:`save_state` wrote, tensors on ``device`` (default: the CPU)."""
    try:
        state = torch.load(path, map_location=device or "cpu", weights_only=True)
        state["trainer"]["networks"]["discriminator"]
    except Exception as e:  # a damaged file may fail anywhere in the reader
        raise _damaged(path, e) from e
    return dict(state)


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: damaged, or of another version ({type(error).__name__})",
        hint=f"remove {path.parent} to start anew",
    )


def seconds_per_step(trainer: Trainer, dataset: TrainingSet, indices: Sequence[int], report: Report) -> float:
    """Time of a training step, after a warm-up of a tenth of the steps."""
    warm_up = TIMED_STEPS // 10
    loader = _loader(dataset, indices, trainer, 0, TIMED_STEPS + warm_up)
    started = 0.0
    with report.progress("timing", TIMED_STEPS + warm_up) as bar:
        for i, batch in enumerate(loader):
            if i == warm_up:
                trainer.take_terms(1)  # waits for the device
                started = time.monotonic()
            trainer.step(batch, 1.0)
            bar.advance()
    trainer.take_terms(1)
    return (time.monotonic() - started) / TIMED_STEPS


def _loader(
    dataset: TrainingSet, indices: Sequence[int], trainer: Trainer, first_step: int, steps: int
) -> DataLoader[Batch]:
    """This process's part of each step's batch."""
    train, world = trainer.recipe.train, trainer.processes.world
    share = partial(world.share, accumulate=train.accumulate)
    sampler = StepSampler(indices, train.batch, train.seed, first_step, steps, share)
    workers = min(train.num_workers, max(1, _num_cores() // world.local_size))
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate_for(trainer.recipe, trainer.device, train.accumulate),
        pin_memory=trainer.device.type == "cuda",
        prefetch_factor=4 if workers else None,
        worker_init_fn=ignore_interrupt if workers else None,
    )


def _num_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def ignore_interrupt(worker: int) -> None:
    """Ctrl-C is for the main process, which ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


@contextmanager
def graceful_stop(repeated: bool = False) -> Iterator[Callable[[], bool]]:
    """While open, the first Ctrl-C or SIGTERM asks to stop after the present step; a second one stops at once.

    repeated: it does not, for torchrun sends on what the terminal has sent already, and ends all after 30 s.
    """
    asked = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        if asked and not repeated:
            raise KeyboardInterrupt
        asked = True

    try:
        before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: nothing to catch
        before = {}
    try:
        yield lambda: asked
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def _tensorboard(run_dir: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run_dir / "tensorboard"))


def run_card(recipe: Recipe, record: RunRecord, step: int, seconds: float, trainer: Trainer, num_samples: int) -> Card:
    """The card of the run's weights. Paths are cut to file names: they mean nothing elsewhere."""
    device, processes = trainer.device, trainer.processes.world.size
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} CPU cores"
    plain = recipe.model_dump(mode="json")
    for section, key in (("data", "photos"), ("data", "masks"), ("data", "instances"), ("data", "packed")):
        plain[section][key] = Path(plain[section][key]).name
    plain["loss"]["perceptual_weights"] = Path(plain["loss"]["perceptual_weights"]).name
    for key in ("extractor", "inception", "segmenter"):
        plain["validation"][key] = Path(plain["validation"][key]).name
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
            "images": step * recipe.train.batch,
            "seconds": round(seconds, 1),
            "hardware": hardware,
            "processes": processes,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    )
