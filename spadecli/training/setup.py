"""The start of a training run: options, recipe, run folder, networks. Everything is checked before it is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ..compute.precision import choose_precision
from ..core.errors import BackendUnavailable, UserError
from ..core.ranks import Ranks, check_split
from ..core.recipe import Recipe
from ..core.recipe_files import Resolved, find_recipe, load_recipe, recipe_difference
from ..core.report import Report
from ..core.stages import stages_of
from ..core.version import VERSION
from ..model.perceptual import is_fetched, load_perceptual
from ..model.projected import GROUP
from ..store.run_folder import RunFolder, RunRecord, newest_unfinished
from .init_from import InitWeights, apply_init, init_record, open_init
from .step import Trainer, build_networks


@dataclass(frozen=True)
class TrainOptions:
    """What to train, and for how long.

    recipe: name of a shipped recipe, a TOML file, or the folder of a run to resume. None resumes the newest unfinished
        run; if there is none, it uses ./recipe.toml, then the shipped facades recipe.
    overrides: ``key=value`` settings for the recipe.
    init: weights, the folder of a run or an NVlabs generator to start from. init_labels: a recipe with the label space
        it was trained on, if the file does not say.
    recalibrate: recalibrate the batch-norm statistics of the exported weights (a finished run is exported again), on
        the recipe's number of batches, or on 50 if that is 0.
    max_minutes: stop (resumable) after this time. fit_minutes: choose the number of steps that fit in this time.
    """

    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    runs_dir: Path = Path("runs")
    device: str = "auto"
    init: Path | None = None
    init_labels: str | None = None
    recalibrate: bool = False
    max_minutes: float | None = None
    fit_minutes: float | None = None
    tensorboard: bool = False


def resolve_recipe(options: TrainOptions, report: Report) -> Resolved:
    """Load the recipe: as given, or of the newest unfinished run, or ./recipe.toml, or the shipped facades."""
    if options.recipe is not None and (Path(options.recipe) / "run.json").is_file():
        return _of_run(RunFolder(Path(options.recipe)))
    if options.recipe is not None:
        return load_recipe(find_recipe(options.recipe), options.overrides)
    open_run = newest_unfinished(options.runs_dir, report.warn) if not options.overrides else None
    if open_run is not None:
        report.note(f"resuming {open_run.path}, the newest unfinished run")
        return _of_run(open_run)
    name = "recipe.toml" if Path("recipe.toml").is_file() else "facades"
    report.note(f"training recipe {name}")
    return load_recipe(find_recipe(name), options.overrides)


def run_folder(options: TrainOptions, recipe: Recipe) -> RunFolder:
    """Return the folder of the run, which may not exist yet."""
    if options.recipe is not None and (Path(options.recipe) / "run.json").is_file():
        return RunFolder(Path(options.recipe))
    return RunFolder(options.runs_dir / recipe.name)


def _of_run(run: RunFolder) -> Resolved:
    record = run.read()
    return Resolved(record.recipe, dict.fromkeys(Recipe.model_fields, str(run.path)), record.origin)


def run_record(
    run: RunFolder, resolved: Resolved, options: TrainOptions, data_sha256: str, num_samples: int
) -> RunRecord:
    """Return the run's run.json if the options agree with it, or a new record if there is none.

    Raises UserError, which names every difference.
    """
    init = None
    if options.init is not None:
        init = init_record(open_init(options.init, resolved.recipe, options.init_labels))
    new = RunRecord(
        created_by=f"spade {VERSION}",
        recipe=resolved.recipe,
        origin=resolved.origin,
        data_sha256=data_sha256,
        init=init,
        fit_minutes=options.fit_minutes,
        steps=_steps_of(resolved.recipe, num_samples),
    )
    if not run.exists:
        return new
    old = run.read()
    differences = recipe_difference(old.recipe.model_dump(mode="json"), new.recipe.model_dump(mode="json"))
    if old.data_sha256 != data_sha256:
        differences.append("the packed data have changed")
    if init is not None and (old.init is None or old.init.sha256 != init.sha256):
        differences.append(f"--init {options.init}: it started from {old.init.file if old.init else 'fresh networks'}")
    if options.fit_minutes is not None and options.fit_minutes != old.fit_minutes:
        differences.append(f"--fit-minutes {options.fit_minutes:g}: its {old.steps} steps are fixed")
    if differences:
        # a run without a log row, as after running out of memory at the first step, is no loss
        away = "move the folder away" if run.stats() else f"remove {run.path}, which holds no progress"
        raise UserError(
            f"{run.path}: holds another run of this name",
            problems=differences,
            hint=f"train under another name (--set name=NEW), or {away}",
        )
    return old


def settle_precision(record: RunRecord, device: torch.device, report: Report) -> RunRecord:
    """Return the record of a run with what it takes for ``train.precision = "auto"``: once, so that it stays so."""
    if record.recipe.train.precision != "auto" or record.precision is not None:
        return record
    choice = choose_precision(device)
    report.note(choice.line)
    return record.model_copy(update={"precision": choice.precision})


def new_trainer(recipe: Recipe, device: torch.device, start: InitWeights | None) -> Trainer:
    """Build a trainer with networks from the recipe's seed, or from ``start``."""
    trainer = Trainer(recipe, device)
    if start is not None:
        apply_init(trainer, start)
    return trainer


def count_parameters(recipe: Recipe) -> dict[str, int]:
    """Count the parameters of each network, without allocating them."""
    with torch.device("meta"):
        generator, encoder, discriminator = build_networks(recipe)
    networks = {"generator": generator, "encoder": encoder, "discriminator": discriminator}
    return {name: sum(p.numel() for p in m.parameters()) for name, m in networks.items() if m is not None}


def check_tensorboard() -> None:
    """Raise BackendUnavailable, with the command that installs it, if TensorBoard is missing."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as e:
        raise BackendUnavailable("TensorBoard is not installed", hint='pip install "spadecli[tensorboard]"') from e


def _steps_of(recipe: Recipe, num_samples: int) -> int:
    """Return the length of the run in steps, from the recipe's steps or epochs."""
    if recipe.train.steps is not None:
        return recipe.train.steps
    return max(1, round(float(recipe.train.epochs or 0) * num_samples / recipe.train.batch))


def fetch_perceptual(recipe: Recipe, ranks: Ranks, report: Report) -> None:
    """Download the perceptual network, once per machine, if the recipe uses it and torch's cache lacks it."""
    network = recipe.loss.perceptual_network
    wanted = recipe.loss.uses_perceptual_network and not recipe.loss.perceptual_weights
    if network == "none" or not wanted or is_fetched(network):
        return
    report.note(f"fetching {network} for the perceptual loss, once")
    if ranks.size > 1 and ranks.local_rank == 0:
        load_perceptual(network)


def check_batches(recipe: Recipe, processes: int) -> None:
    """Raise UserError if the batch of a stage cannot be split over the processes, or its prior_share does not fit."""
    for stage in stages_of(recipe, recipe.train.steps or 1):
        try:
            check_split(stage.batch, stage.recipe.train.accumulate, processes)
            _check_prior_share(stage.recipe, processes)
            _check_color_heads(stage.recipe, processes)
        except UserError as e:
            if stage.of == 1:
                raise
            raise UserError(f"stage {stage.number} of {stage.of}: {e.message}", hint=e.hint) from e


def _check_prior_share(recipe: Recipe, processes: int) -> None:
    """Raise UserError if ``train.prior_share`` is no whole number of a process's images, or leaves none to encode."""
    share, images = recipe.train.prior_share, recipe.train.batch // (processes * recipe.train.accumulate)
    if not share or (round(share * images) < images and abs(share * images - round(share * images)) < 1e-6):
        return
    fitting = ", ".join(f"{i / images:g}" for i in range(1, images)) or "none"
    raise UserError(
        f"train.prior_share = {share:g}: not a whole number of the {images} images that a process takes at a time",
        hint=f"shares that fit: {fitting}; or another train.batch",
    )


def _check_color_heads(recipe: Recipe, processes: int) -> None:
    """Raise UserError if a process takes no whole groups of images, whose colours are judged together."""
    images = recipe.train.batch // (processes * recipe.train.accumulate)
    if recipe.discriminator.kind == "projected" and recipe.discriminator.color_heads and images % GROUP:
        raise UserError(
            f"discriminator.color_heads compares the colours of {GROUP} images, and a process takes {images} at a time",
            hint=f"a batch that makes it a multiple of {GROUP}, or --set discriminator.color_heads=false",
        )


def check_discriminator_first(recipe: Recipe, steps: int) -> None:
    """Raise UserError if the discriminator would learn alone to the end of the run."""
    if recipe.train.discriminator_first >= steps:
        raise UserError(
            f"train.discriminator_first = {recipe.train.discriminator_first}: the run has {steps} steps, "
            "and the generator would never learn",
            hint="--set train.discriminator_first=0, or a longer run",
        )


def describe_batch(recipe: Recipe, ranks: Ranks) -> str:
    """Describe the batch and how it is split: "32 (4 processes x 8)"."""
    batch, parts = recipe.train.batch, recipe.train.accumulate
    factors = [f"{ranks.size} processes"] * (ranks.size > 1) + [f"{parts} micro-batches"] * (parts > 1)
    if not factors:
        return str(batch)
    return f"{batch} ({' x '.join([*factors, str(batch // (parts * ranks.size))])})"
