"""``spade train``: a recipe to weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..backends.torch_backend import pick_device
from ..core.errors import UserError
from ..core.recipe import Recipe, Resolved, find_recipe, load_recipe, recipe_difference
from ..core.report import Report, Silent
from ..core.version import VERSION
from ..data.dataset import TrainingSet
from ..model.generator import resize_start
from ..model.trainer import Trainer, build_networks
from ..model.weights import effective_state, load_effective, load_weights
from ..store.h5 import file_sha256
from ..store.run_folder import RunFolder, newest_unfinished
from .train_loop import TrainLoop, load_state, seconds_per_step


@dataclass(frozen=True)
class TrainOptions:
    """What to train, and for how long.

    recipe: a shipped recipe's name or a TOML file; None resumes the newest unfinished run, else takes
        ./recipe.toml, else the shipped facades recipe.
    overrides: ``key=value`` for the recipe. init: weights to start from.
    max_minutes: stop (resumable) after so long. fit_minutes: choose the number of steps to fit.
    """

    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    runs_dir: Path = Path("runs")
    device: str = "auto"
    init: Path | None = None
    max_minutes: float | None = None
    fit_minutes: float | None = None
    tensorboard: bool = False
    dry_run: bool = False


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
    """Train, or go on training. Raises UserError for wrong recipes, missing data, or another recipe in the run folder.

    Ctrl-C and SIGTERM save first, then raise KeyboardInterrupt.
    """
    report = report or Silent()
    resolved = _resolve(options, report)
    recipe = resolved.recipe
    run = RunFolder(options.runs_dir / recipe.name)
    device = pick_device(options.device)
    dataset, indices = _open_data(recipe)
    record = _run_record(run, resolved, options, dataset.packed.sha256)
    parameters = _count_parameters(recipe)
    steps: int = record["steps"] or _steps_of(recipe, len(indices))
    if options.dry_run:
        return TrainResult(run.path, run.weights_path, 0, steps, parameters, 0.0)

    trainer = _new_trainer(recipe, device, options.init)
    if record["steps"] is None:
        if options.fit_minutes is not None:
            pace = seconds_per_step(trainer, dataset, indices, report)
            steps = max(1, round(60 * options.fit_minutes / pace))
            report.note(f"{pace:.3f} s a step: {steps} steps fit {options.fit_minutes:g} minutes")
            trainer = _new_trainer(recipe, device, options.init)  # the timed steps were a rehearsal
        record["steps"] = steps
        run.write(record)
    step, seconds = 0, 0.0
    if run.state_path.is_file():
        step, seconds = load_state(run.state_path, trainer)
        report.note(f"resuming {run.path} at step {step} of {steps}")
    run.drop_stats_after(step)
    if step == steps:
        report.note(f"{run.path} is finished: {step} steps")
        return TrainResult(run.path, run.weights_path, step, steps, parameters, seconds)
    report.note(f"training on {len(indices)} pairs, {steps} steps of {recipe.train.batch}, {device}: {run.path}")
    loop = TrainLoop(trainer, dataset, indices, run, record, report)
    step, seconds = loop.run(step, seconds, options.max_minutes, options.tensorboard)
    return TrainResult(run.path, run.weights_path, step, steps, parameters, seconds)


def _resolve(options: TrainOptions, report: Report) -> Resolved:
    """The recipe: as given, or of the newest unfinished run, or ./recipe.toml, or the shipped facades."""
    if options.recipe is not None:
        return load_recipe(find_recipe(options.recipe), options.overrides)
    open_run = newest_unfinished(options.runs_dir)
    if open_run is not None and not options.overrides:
        report.note(f"going on with {open_run.path}, the newest unfinished run")
        return Resolved(Recipe.model_validate(open_run.read()["recipe"]), {}, str(open_run.path))
    name = "recipe.toml" if Path("recipe.toml").is_file() else "facades"
    report.note(f"training recipe {name}")
    return load_recipe(find_recipe(name), options.overrides)


def _open_data(recipe: Recipe) -> tuple[TrainingSet, list[int]]:
    """The packed data and the indices to train on, or all that is wrong with them."""
    data, path = recipe.data, Path(recipe.data.packed)
    if not path.is_file():
        photos, masks = data.photos or "PHOTOS", data.masks or "MASKS"
        raise UserError(
            f"{path}: the packed data of recipe {recipe.name!r} are missing",
            problems=[f"they are made from photos in {photos}", f"and masks of the same names in {masks}"],
            hint=f"spade pack {photos} {masks} --recipe {recipe.name} -o {path}",
        )
    dataset = TrainingSet(path, recipe)
    packed = dataset.packed
    problems = []
    if packed.labels != recipe.labels:
        problems.append(f"packed with label space {packed.labels.name!r}, which is not the recipe's")
    if tuple(packed.size) != tuple(data.load_size):
        problems.append(f"packed at {list(packed.size)}, data.load_size is {list(data.load_size)}")
    if recipe.labels.instances and not packed.has_instances:
        problems.append("packed without instance maps, which labels.instances asks for")
    held = set(data.holdout)
    if absent := sorted(held - set(packed.names)):
        problems.append(f"data.holdout names that are not packed: {', '.join(absent[:5])}" + " ..." * (len(absent) > 5))
    indices = [i for i, name in enumerate(packed.names) if name not in held]
    if not indices:
        problems.append("nothing is left to train on")
    if problems:
        message = f"{path}: does not fit recipe {recipe.name!r}"
        raise UserError(message, problems=problems, hint="spade pack makes it anew")
    return dataset, indices


def _run_record(run: RunFolder, resolved: Resolved, options: TrainOptions, data_sha256: str) -> dict[str, Any]:
    """run.json of the run: the one that is there, if it is this run, or a new one."""
    recipe = resolved.recipe.model_dump(mode="json")
    if not run.exists:
        init = {"file": str(options.init), "sha256": file_sha256(options.init)} if options.init is not None else None
        return {
            "format": "spade-run",
            "created_by": f"spade {VERSION}",
            "recipe": recipe,
            "origin": resolved.origin,
            "data_sha256": data_sha256,
            "init": init,
            "fit_minutes": options.fit_minutes,
            "steps": None,
            "finished": False,
        }
    record = run.read()
    differences = recipe_difference(record["recipe"], recipe)
    if record["data_sha256"] != data_sha256:
        differences.append("the packed data have changed")
    if differences:
        raise UserError(
            f"{run.path}: holds a run of another recipe",
            problems=differences,
            hint="give the recipe another name (--set name=NEW), or move the folder away",
        )
    return record


def _steps_of(recipe: Recipe, num_samples: int) -> int:
    """Length of the run in steps, as the recipe says."""
    if recipe.train.steps is not None:
        return recipe.train.steps
    return max(1, round(float(recipe.train.epochs or 0) * num_samples / recipe.train.batch))


def _new_trainer(recipe: Recipe, device: torch.device, init: Path | None) -> Trainer:
    """Networks from the recipe's seed, or with generator and encoder from weights, of any training size."""
    trainer = Trainer(recipe, device)
    if init is None:
        return trainer
    card, generator, encoder = load_weights(init)
    old = card.architecture.model_copy(update={"size": recipe.model.size})
    differences = recipe_difference(old.model_dump(mode="json"), recipe.model.model_dump(mode="json"))
    if card.labels != recipe.labels:
        differences.append(f"label space {card.labels.name!r} is not the recipe's {recipe.labels.name!r}")
    if differences:
        raise UserError(f"{init}: cannot start this recipe", problems=differences)
    load_effective(trainer.generator, resize_start(effective_state(generator), card.architecture, recipe.model))
    if trainer.encoder is not None and encoder is not None:
        load_effective(trainer.encoder, effective_state(encoder))
    trainer.restart_ema()
    return trainer


def _count_parameters(recipe: Recipe) -> dict[str, int]:
    with torch.device("meta"):
        generator, encoder, discriminator = build_networks(recipe)
    networks = {"generator": generator, "encoder": encoder, "discriminator": discriminator}
    return {name: sum(p.numel() for p in m.parameters()) for name, m in networks.items() if m is not None}
