"""The start of a segmenter's training: recipe, training and test pairs, and the run folder."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..compute.devices import pick_device
from ..compute.precision import PrecisionChoice, choose_precision
from ..core.errors import UserError
from ..core.parallel import num_cores
from ..core.recipe import Recipe
from ..core.recipe_files import find_recipe, load_recipe
from ..data.packed import Packed
from ..data.training_pairs import open_data
from ..store.atomic import part_file
from .card import SegmenterArchitecture
from .network import SegmentationNet
from .samples import IGNORED
from .trainer import SegmenterTrainer, class_weights

STATE = "state.pt"


@dataclass(frozen=True)
class TrainSegmenterOptions:
    """What to train a segmenter on, for how long, and which network.

    recipe: name of a shipped recipe or a TOML file. overrides: ``key=value`` settings for it.
    out: the run's folder; None is RUNS_DIR/<recipe>-segmenter.
    minutes, steps: length of training; steps are exact and take precedence.
    test: a packed file on whose pairs the segmenter is scored, instead of those of data.holdout.
    validate: leave out every validate-th training pair and score on these instead of the held-out ones, so that
        settings can be chosen without using those; 0 trains on all.
    width: channels of the first level. balance: how far the loss compensates for the rarity of classes (0 not at all,
        1 fully). jitter: strength of the colour augmentation. coarse_share: share of the steps at half the size.
    """

    recipe: str
    overrides: tuple[str, ...] = ()
    runs_dir: Path = Path("runs")
    out: Path | None = None
    minutes: float = 30.0
    steps: int | None = None
    test: Path | None = None
    validate: int = 0
    device: str = "auto"
    width: int = 24
    batch: int = 8
    lr: float = 3e-3
    balance: float = 0.5
    jitter: float = 0.2
    coarse_share: float = 0.75
    seed: int = 0


@dataclass(frozen=True)
class SegmenterPlan:
    """A segmenter's training before it starts.

    fitted: indices of the packed pairs that are trained on. unseen: (packed file, index) of the pairs it is scored on.
    unseen_are: a description of these. counts: int64 [K], pixels of each class in the fitted pairs.
    steps: None if they are still to be fitted to the minutes.
    precision_line: what ``train.precision = "auto"`` takes, and why; "" for another.
    """

    recipe: Recipe
    origin: str
    run_dir: Path
    packed: Packed
    fitted: tuple[int, ...]
    unseen: tuple[tuple[Packed, int], ...]
    unseen_are: str
    counts: NDArray[np.int64]
    arch: SegmenterArchitecture
    device: torch.device
    steps: int | None
    batch: int
    lr: float
    balance: float
    jitter: float
    coarse_share: float
    seed: int
    workers: int
    precision_line: str = ""

    @property
    def weights_path(self) -> Path:
        """The segmenter's weights file, written when training is finished."""
        return self.run_dir / "segmenter.safetensors"

    @property
    def state_path(self) -> Path:
        """The file with everything needed to resume."""
        return self.run_dir / STATE

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        with torch.device("meta"):
            net = SegmentationNet(self.arch, self.recipe.labels.num_classes)
        return sum(p.numel() for p in net.parameters())

    def settings(self) -> dict[str, Any]:
        """Return the settings that the result depends on, as plain values."""
        return {
            "recipe": self.recipe.name,
            "data_sha256": self.packed.sha256,
            "pairs": len(self.fitted),
            "size": list(self.arch.size),
            "width": self.arch.width,
            "batch": self.batch,
            "lr": self.lr,
            "balance": self.balance,
            "jitter": self.jitter,
            "coarse_share": self.coarse_share,
            "precision": self.recipe.train.precision,
            "seed": self.seed,
        }

    def with_coarse_share(self, share: float) -> SegmenterPlan:
        """Return the plan with another share of steps at half the size."""
        return replace(self, coarse_share=share)


def plan_segmenter(options: TrainSegmenterOptions) -> SegmenterPlan:
    """Check everything without writing. Raises UserError, which lists all problems of recipe and data."""
    resolved = load_recipe(find_recipe(options.recipe), options.overrides)
    recipe = resolved.recipe
    device = pick_device(options.device)
    dataset, indices = open_data(resolved)
    packed, run_dir = dataset.packed, options.out or options.runs_dir / f"{recipe.name}-segmenter"
    precision_line = ""
    if recipe.train.precision == "auto":
        choice = _choose_precision(run_dir, device)
        recipe, precision_line = recipe.with_precision(choice.precision), choice.line
    fitted, unseen, unseen_are = _divide(options, recipe, packed, indices)
    if not fitted:
        raise UserError(f"{packed.path}: --validate {options.validate} leaves no pair for training")
    workers = min(recipe.train.num_workers, num_cores())
    return SegmenterPlan(
        recipe=recipe,
        origin=resolved.origin,
        run_dir=run_dir,
        packed=packed,
        fitted=tuple(fitted),
        unseen=unseen,
        unseen_are=unseen_are,
        counts=_class_counts(packed, fitted, recipe),
        arch=SegmenterArchitecture(size=recipe.model.size, width=options.width),
        device=device,
        steps=options.steps,
        batch=options.batch,
        lr=options.lr,
        balance=options.balance,
        jitter=options.jitter,
        coarse_share=options.coarse_share,
        seed=options.seed,
        workers=workers,
        precision_line=precision_line,
    )


def _choose_precision(run_dir: Path, device: torch.device) -> PrecisionChoice:
    """Take for "auto" what a run in the folder began with; else the faster one. Damage is found by load_state."""
    with suppress(Exception):
        began_with = torch.load(run_dir / STATE, map_location="cpu", weights_only=True)["settings"]["precision"]
        if began_with in ("fp32", "bf16"):
            return PrecisionChoice(began_with, "as the run began")
    return choose_precision(device)


def _divide(
    options: TrainSegmenterOptions, recipe: Recipe, packed: Packed, indices: list[int]
) -> tuple[list[int], tuple[tuple[Packed, int], ...], str]:
    """Return the pairs to train on, the pairs to score on, and a description of the latter."""
    if options.validate:
        left_out = indices[:: options.validate]
        fitted = sorted(set(indices) - set(left_out))
        return fitted, tuple((packed, i) for i in left_out), f"every {options.validate}th training pair, left out"
    if options.test is not None:
        test = Packed(options.test)
        problems = []
        if test.labels != recipe.labels:
            problems.append(f"packed with label space {test.labels.name!r}, which is not the recipe's")
        if same := sorted(set(test.names) & {packed.names[i] for i in indices}):
            problems.append(f"{len(same)} of its pairs are trained on: {', '.join(same[:5])}")
        if problems:
            raise UserError(f"{options.test}: cannot serve as test set", problems=problems)
        return indices, tuple((test, i) for i in range(len(test))), f"the {len(test)} pairs of {options.test.name}"
    held = set(recipe.data.holdout)
    unseen = tuple((packed, i) for i, name in enumerate(packed.names) if name in held)
    return indices, unseen, "held out by the recipe" if unseen else "none"


def _class_counts(packed: Packed, fitted: list[int], recipe: Recipe) -> NDArray[np.int64]:
    """Count the pixels of each class in the pairs that are trained on, int64 [K]."""
    codes = np.zeros(256, np.int64)
    for i in fitted:
        codes += np.bincount(packed.get(i)[0].ravel(), minlength=256)
    packed.close()
    known = recipe.labels.code_to_channel >= 0
    channels = recipe.labels.code_to_channel[known]
    return np.bincount(channels, codes[known], recipe.labels.num_classes).astype(np.int64)


def new_trainer(plan: SegmenterPlan) -> SegmenterTrainer:
    """Build a trainer at step 0."""
    counts = torch.from_numpy(plan.counts.copy())
    if plan.recipe.labels.unknown_channel is not None:
        counts[plan.recipe.labels.unknown_channel] = 0
    weights = class_weights(counts, plan.balance)
    return SegmenterTrainer(
        plan.arch,
        weights,
        plan.device,
        ignored=IGNORED,
        seed=plan.seed,
        lr=plan.lr,
        bf16=plan.recipe.train.precision == "bf16",
    )


def save_state(plan: SegmenterPlan, trainer: SegmenterTrainer, step: int, steps: int, seconds: float) -> None:
    """Write state.pt atomically."""
    state = {"format": "spade-segmenter-state", "settings": plan.settings(), "trainer": trainer.state_dict()}
    with part_file(plan.state_path) as part:
        torch.save({**state, "step": step, "steps": steps, "seconds": seconds}, part)


def load_state(plan: SegmenterPlan, trainer: SegmenterTrainer) -> tuple[int, int, float]:
    """Restore a trainer from state.pt; return step, steps and seconds of the run, or zeros if there is none.

    Raises UserError if the folder holds a run with other settings, or a damaged one.
    """
    if not plan.state_path.is_file():
        return 0, 0, 0.0
    try:
        state = torch.load(plan.state_path, map_location=trainer.device, weights_only=True)
        old, steps = dict(state["settings"]), int(state["steps"])
        differences = [f"{k}: {old.get(k)} -> {v}" for k, v in plan.settings().items() if old.get(k) != v]
        if plan.steps is not None and plan.steps != steps:
            differences.append(f"steps: {steps} -> {plan.steps}")
        if not differences:
            trainer.load_state_dict(state["trainer"])
            return int(state["step"]), steps, float(state["seconds"])
    except Exception as e:  # a damaged file may fail anywhere in the reader
        hint = f"remove {plan.run_dir} to start over"
        raise UserError(f"{plan.state_path}: damaged, or of another version ({type(e).__name__})", hint=hint) from e
    raise UserError(
        f"{plan.run_dir}: holds another segmenter's training",
        problems=differences,
        hint="give another folder with --out, or remove this one",
    )
