"""``spade train-segmenter``: the real pairs of a recipe to a segmenter that scores renders."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch.utils.data import DataLoader

from ...core.errors import UserError
from ...core.report import Report, Silent, Task, count
from ...core.signals import graceful_stop
from ...data.dataset import Batch, StepSampler, start_worker
from ...segmenter.card import SegmenterCard
from ...segmenter.evaluate import make_card
from ...segmenter.file import save_segmenter
from ...segmenter.plan import SegmenterPlan, TrainSegmenterOptions, load_state, new_trainer, plan_segmenter, save_state
from ...segmenter.samples import SegmentationSet
from ...segmenter.trainer import SegmenterTrainer
from ...store.atomic import lock_file, remove_parts

__all__ = ["TrainSegmenterOptions", "TrainSegmenterResult", "plan_segmenter", "train_segmenter"]

TIMED_STEPS = 6  # of each of the two sizes, to plan the minutes by
CHECKPOINT_EVERY = 200
TOLD_EVERY = 20


@dataclass(frozen=True)
class TrainSegmenterResult:
    """A finished segmenter, its card, and the seconds of training."""

    run_dir: Path
    weights: Path
    card: SegmenterCard
    steps: int
    seconds: float


def train_segmenter(options: TrainSegmenterOptions, report: Report | None = None) -> TrainSegmenterResult:
    """Train a segmenter, or resume its training; then score it on unseen pairs, and save it with its card.

    Raises UserError for wrong recipes, missing data, or another segmenter in the run folder. Ctrl-C and SIGTERM save
    first, then raise KeyboardInterrupt.
    """
    report = report or Silent()
    plan = plan_segmenter(options)
    if plan.precision_line:
        report.note(plan.precision_line)
    busy = UserError(f"{plan.run_dir}: another spade train-segmenter is working on it", hint="wait for it, or --out")
    with lock_file(plan.run_dir / "lock", busy):
        remove_parts(plan.run_dir)
        trainer = new_trainer(plan)
        step, steps, seconds = load_state(plan, trainer)
        if not steps:
            steps = plan.steps or _steps_in(plan, options.minutes, report)
        verb = f"resuming at step {step} of" if step else "training"
        report.note(
            f"{verb} {steps} steps of {plan.batch}, {count(len(plan.fitted), 'pair')}, {trainer.device}: {plan.run_dir}"
        )
        seconds = _train(plan, trainer, step, steps, seconds, report)
        report.note(f"scoring on {count(len(plan.unseen), 'pair')} not trained on")
        card = make_card(plan, trainer, steps, seconds)
        save_segmenter(plan.weights_path, card, trainer.average)
    return TrainSegmenterResult(plan.run_dir, plan.weights_path, card, steps, seconds)


def _train(
    plan: SegmenterPlan, trainer: SegmenterTrainer, step: int, steps: int, seconds_before: float, report: Report
) -> float:
    """Train from ``step`` on to the last; returns the seconds of the whole run."""
    started = saved_at = time.monotonic()
    with graceful_stop() as stopped, report.progress(f"{plan.recipe.name} segmenter", steps, step) as bar:
        for batch in batches(plan, step, steps):
            loss = trainer.step(batch["photo"], batch["target"], step, steps)
            step += 1
            bar.advance()
            if step % TOLD_EVERY == 0 or step == steps:
                _tell(step, steps, float(loss), trainer, bar, report)
            now = time.monotonic()
            if step == steps or stopped() or now - saved_at > 60 or step % CHECKPOINT_EVERY == 0:
                save_state(plan, trainer, step, steps, seconds_before + now - started)
                saved_at = now
            if stopped() and step < steps:
                report.note(f"interrupted at step {step} of {steps}, everything is saved, the same command resumes")
                raise KeyboardInterrupt
    return seconds_before + time.monotonic() - started


def _tell(step: int, steps: int, loss: float, trainer: SegmenterTrainer, bar: Task, report: Report) -> None:
    """Show the loss; stop, before anything is saved, where it is no number or half of the updates were left out."""
    bar.advance(0, f"loss {loss:.3f}")
    if step % CHECKPOINT_EVERY == 0:
        report.note(f"step {step} of {steps}: loss {loss:.3f}", 1)
    if not math.isfinite(loss) or trainer.skipped > TOLD_EVERY // 2:
        raise UserError(
            f"training diverged before step {step} of {steps}: loss {loss:.3g}, {trainer.skipped} updates skipped",
            hint="lower --lr, or --set train.precision=fp32",
        )
    if trainer.skipped:
        report.warn(f"step {step}: {trainer.skipped} updates skipped: their gradients were not finite")
    trainer.skipped = 0


def batches(plan: SegmenterPlan, first_step: int, steps: int) -> Iterator[Batch]:
    """The batches of steps ``first_step`` to ``steps``; the first ones at half the size, where a step costs a quarter.

    Which samples a step takes, and which windows of them, depends on the seed and the step alone.
    """
    coarse = round(steps * plan.coarse_share)
    half = (plan.arch.size[0] // 2, plan.arch.size[1] // 2)
    for size, first, last in ((half, first_step, coarse), (plan.arch.size, max(first_step, coarse), steps)):
        if first >= last:
            continue
        samples = SegmentationSet(plan.packed.path, plan.recipe, size, plan.seed, plan.jitter)
        with _loader(samples, StepSampler(plan.fitted, plan.batch, plan.seed, first, last), plan.workers) as loader:
            yield from loader


@contextmanager
def _loader(samples: SegmentationSet, sampler: StepSampler, workers: int) -> Iterator[DataLoader[Batch]]:
    try:
        yield DataLoader(
            samples,
            batch_sampler=sampler,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            worker_init_fn=start_worker if workers else None,
        )
    finally:
        samples.packed.close()


def _steps_in(plan: SegmenterPlan, minutes: float, report: Report) -> int:
    """How many steps fit, by timing a few of either size on networks of their own."""
    rehearsal = new_trainer(plan)
    pace = 0.0
    for coarse, share in ((True, plan.coarse_share), (False, 1 - plan.coarse_share)):
        if not share:
            continue
        timed = plan.with_coarse_share(1.0 if coarse else 0.0)
        started = time.monotonic()
        for i, batch in enumerate(batches(timed, 0, TIMED_STEPS + 2)):
            if i == 2:
                started = time.monotonic()
            float(rehearsal.step(batch["photo"], batch["target"], i, TIMED_STEPS + 2))
        pace += share * (time.monotonic() - started) / TIMED_STEPS
    steps = max(1, round(60 * minutes / pace))
    report.note(f"{pace:.3f} s a step on average: {steps} steps fit {minutes:g} minutes")
    return steps
