"""Recipes: everything a training run needs, in one TOML file, checked as a whole.

A recipe is resolved from the shipped or given TOML, the recipe it ``extends``, ``SPADE_TRAIN_SET`` and ``--set
key=value``; every value knows where it came from, and all mistakes are reported at once.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator

from .architecture import Architecture
from .errors import UserError
from .labelspace import LabelSpace
from .schema import as_size, check_all, describe_errors, source_of

KEYS_READ_BEFORE = {"": ("extends",), "labels.classes": ("value",)}  # of a TOML file, turned into fields


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataSection(_Section):
    """Where the data are and how they are prepared. Paths are relative to the working directory.

    load_size: (height, width) that photos and masks are packed at; a random crop of the model's size is
        taken from it (286x286 and 256x256 in the paper).
    instances: a folder of instance maps, or a COCO annotation file (``.json``) that they are drawn from.
    photo_suffix, mask_suffix, instance_suffix: only files that end so are taken ("_leftImg8bit.png"), and
        paired by what stands before.
    scenes: only pairs of these scene categories are taken; scene_file says which scene each shows, one line
        "NAME CATEGORY" for each, as in ADE20K's sceneCategories.txt.
    holdout: names (relative path without suffix) that neither training nor validation ever sees: for the final score.
    """

    photos: str = ""
    masks: str = ""
    instances: str = ""
    photo_suffix: str = ""
    mask_suffix: str = ""
    instance_suffix: str = ""
    scenes: tuple[str, ...] = ()
    scene_file: str = ""
    packed: str
    load_size: tuple[int, int] = (286, 286)
    flip: bool = True
    holdout: tuple[str, ...] = ()
    licence: str = ""
    source: str = ""

    @model_validator(mode="after")
    def _scenes_are_known(self) -> DataSection:
        if self.scenes and not self.scene_file:
            raise ValueError("scenes need a scene_file that says which scene each photo shows")
        return self


class DiscriminatorSection(_Section):
    """The discriminator. kind: "patch", the paper's. ndf: base width. num_scales: copies, each on half the size."""

    kind: Literal["patch"] = "patch"
    ndf: int = Field(64, ge=1, le=512)
    num_scales: int = Field(2, ge=1, le=4)


class LossSection(_Section):
    """Loss weights. The KL term counts kl · kl_reference_batch · (mean over samples), see the paper's 32/8 GPUs.

    perceptual_network: "vgg19" (the paper's), "squeezenet" or "none"; perceptual_weights: a local file in
    place of torch's own download. color: distance of the colours averaged over squares, which is not in the paper
    and makes the style code carry them.
    """

    feature_matching: float = Field(10.0, ge=0)
    perceptual: float = Field(10.0, ge=0)
    perceptual_network: Literal["vgg19", "squeezenet", "none"] = "vgg19"
    perceptual_weights: str = ""
    color: float = Field(0.0, ge=0)
    kl: float = Field(0.05, ge=0)
    kl_reference_batch: int = Field(4, ge=1)


class TrainSection(_Section):
    """Length, optimizers and bookkeeping of a run.

    Give ``steps`` or ``epochs``. The learning rates fall linearly to zero from ``decay_from`` (a fraction of
    the run) on. ``max_grad_norm`` 0 clips nothing, as in the paper. ``modulation``: SPADE layers by
    convolutions ("plain"), once per distinct label window ("fast"), or whichever is cheaper ("auto").
    ``recalibrate``: batches that the batch-norm statistics of exported weights are measured on; 0 exports the
    averages of training.

    ``batch`` images make a step, over all processes together. ``accumulate`` goes through them in so many
    micro-batches, for less memory: gradients and losses, which are means, stay those of the batch; the
    statistics of batch norm are those of a micro-batch, and its running averages move that many times a step.
    ``precision``: "fp32" is IEEE on a GPU too; "tf32" lets it round the factors of products to 10 bits; "bf16" computes
    convolutions in bfloat16; "fp64" is for verification.
    """

    batch: int = Field(32, ge=1)
    accumulate: int = Field(1, ge=1)
    steps: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0)
    decay_from: float = Field(0.5, ge=0, le=1)
    lr_g: float = Field(1e-4, gt=0)
    lr_d: float = Field(4e-4, gt=0)
    beta1: float = Field(0.0, ge=0, lt=1)
    beta2: float = Field(0.9, ge=0, lt=1)
    max_grad_norm: float = Field(0.0, ge=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    precision: Literal["fp32", "tf32", "bf16", "fp64"] = "fp32"
    modulation: Literal["auto", "plain", "fast"] = "auto"
    seed: int = Field(0, ge=0, lt=2**63)
    num_workers: int = Field(2, ge=0, le=256)
    log_every: int = Field(50, ge=1)
    sample_every: int = Field(1000, ge=1)
    checkpoint_every: int = Field(1000, ge=1)
    recalibrate: int = Field(0, ge=0, le=100_000)

    @model_validator(mode="wrap")
    @classmethod
    def _one_length(cls, tree: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        def contradictions(t: dict[str, Any]) -> list[str]:
            one = (t.get("steps") is None) != (t.get("epochs") is None)
            problems = [] if one else ["give either steps or epochs"]
            batch, parts = (t.get(key, cls.model_fields[key].default) for key in ("batch", "accumulate"))
            if isinstance(batch, int) and isinstance(parts, int) and parts > 0 and batch % parts:
                problems.append(f"accumulate = {parts} does not divide batch = {batch}")
            return problems

        return check_all(cls, tree, check, contradictions)


class ValidationSection(_Section):
    """Looking at the averaged weights now and then, on pairs that are kept out of training for it.

    They are never data.holdout's: those stay unseen until the final score.

    every: steps between two looks; 0: none, and no pair is kept out.
    pairs: how many, spread evenly over the names that are not held out; or ``names``: these.
    sheet: draw a sample sheet of them. extractor: TorchScript file of features for a Fréchet distance, or
        inception: the FID Inception's; without either no distance is measured and no best weights are kept.
    segmenter: file of a network that says how much of the mask is found again in the image (mIoU).
    """

    every: int = Field(0, ge=0)
    pairs: int = Field(100, ge=2)
    names: tuple[str, ...] = ()
    sheet: bool = True
    extractor: str = ""
    inception: str = ""
    segmenter: str = ""

    @model_validator(mode="after")
    def _one_extractor(self) -> ValidationSection:
        if self.extractor and self.inception:
            raise ValueError("give either extractor or inception")
        return self


class Recipe(_Section):
    """A whole training run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    data: DataSection
    labels: LabelSpace
    model: Architecture = Architecture()
    discriminator: DiscriminatorSection = DiscriminatorSection()
    loss: LossSection = LossSection()
    train: TrainSection
    validation: ValidationSection = ValidationSection()

    @model_validator(mode="wrap")
    @classmethod
    def _crop_fits(cls, tree: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        return check_all(cls, tree, check, cls._contradictions)

    @classmethod
    def _contradictions(cls, tree: dict[str, Any]) -> list[str]:
        def size_of(section: str, key: str, default: Any) -> tuple[int, int] | None:
            table = tree.get(section, {})
            return as_size(table.get(key, default)) if isinstance(table, dict) else None

        load = size_of("data", "load_size", DataSection.model_fields["load_size"].default)
        size = size_of("model", "size", Architecture.model_fields["size"].default)
        if load and size and (load[0] < size[0] or load[1] < size[1]):
            return [f"data.load_size {list(load)} is smaller than model.size {list(size)}"]
        return []


@dataclass(frozen=True)
class Resolved:
    """A checked recipe, and where each value came from ("train.batch" -> "--set", ...)."""

    recipe: Recipe
    sources: Mapping[str, str]
    origin: str

    def source(self, key: str) -> str:
        """Where a value came from: a file, "--set" or "default"."""
        return source_of(self.sources, key)

    def settings(self) -> list[tuple[str, Any, str]]:
        """(key, value, source) of every value, "train.batch" and the like."""
        tree = self.recipe.model_dump(mode="json")
        return [(key, value, self.source(key)) for key, value in _leaves(tree)]


def recipes_dir() -> Path:
    """Folder of the shipped recipes: in a clone or editable install, the clone's; else the wheel's."""
    return shipped_dir("recipes")


def shipped_dir(what: str) -> Path:
    """Folder of shipped files (``recipes``, ``weights``): the wheel's, else the clone's (editable install)."""
    package = Path(__file__).resolve().parents[1]
    base = package / "shipped"
    return (base if base.is_dir() else package.parent) / what


def shipped_weights(name: str = "facades") -> Path:
    """File of the shipped weights called ``name``."""
    return shipped_dir("weights") / f"{name}.safetensors"


def shipped_examples(name: str = "facades") -> dict[str, Path]:
    """Name -> file of each example mask that is shipped for the recipe ``name``."""
    return {p.stem: p for p in sorted(shipped_dir("weights").glob(f"examples/{name}/*.png"))}


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of each shipped recipe."""
    return {p.stem: p for p in sorted(recipes_dir().glob("*.toml"), key=lambda p: p.stem)}


def find_recipe(name: str) -> Path:
    """File of a recipe given by name or by path."""
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        if path.is_file():
            return path
        raise UserError(f"{path}: no such recipe file")
    shipped = shipped_recipes()
    if name in shipped:
        return shipped[name]
    close = difflib.get_close_matches(name, shipped, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"shipped recipes: {', '.join(shipped)}; or give a .toml file"
    raise UserError(f"no recipe is called {name!r}", hint=hint)


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Resolved:
    """Read and check a recipe file with ``key=value`` overrides (dotted keys, TOML values).

    Raises UserError that lists every mistake.
    """
    tree, sources = _read_tree(path)
    tree.setdefault("name", path.stem)
    problems = []
    for text in overrides:
        key, sep, raw = text.partition("=")
        key = key.strip()
        if not sep or not key:
            problems.append(f"--set {text}: expected key=value, for example train.batch=8")
            continue
        try:
            _assign(tree, key.split("."), _toml_value(raw.strip()))
            sources = {k: v for k, v in sources.items() if not k.startswith(f"{key}.")} | {key: "--set"}
        except KeyError as e:
            problems.append(f"--set {text}: {e.args[0]} is a value, not a section")
    _drop_other_length(tree, {key for key, source in sources.items() if source == "--set"})
    recipe = None
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as e:
        problems += describe_errors(e, Recipe, {k: v for k, v in sources.items() if v != str(path)}, KEYS_READ_BEFORE)
    if problems or recipe is None:
        raise UserError(f"{path}: {len(problems)} mistake{'s' * (len(problems) != 1)} in the recipe", problems=problems)
    return Resolved(recipe, sources, str(path))


def _read_tree(path: Path, above: tuple[Path, ...] = ()) -> tuple[dict[str, Any], dict[str, str]]:
    """The TOML of a recipe over that of the recipe it extends; and the file that each value is from."""
    if path.resolve() in above:
        raise UserError(f"{path}: extends itself, through {' and '.join(p.name for p in above)}")
    try:
        tree = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: not valid TOML: {e}") from e
    base = tree.pop("extends", None)
    sources = {key: str(path) for key, _ in _leaves(tree)}
    if base is None:
        return tree, sources
    if not isinstance(base, str):
        raise UserError(f"{path}: extends = {base!r}: expected a recipe's name or a .toml file")
    beside = path.parent / base
    below, base_sources = _read_tree(beside if beside.is_file() else find_recipe(base), (*above, path.resolve()))
    below.pop("name", None)
    _drop_other_length(below, sources)
    merged = _merge(below, tree)
    return merged, {key: sources.get(key) or base_sources[key] for key, _ in _leaves(merged)}


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are merged key by key; any other value replaces the one below it."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _drop_other_length(tree: dict[str, Any], newer: Collection[str]) -> None:
    """Steps and epochs exclude each other: where one is given anew, the older other one goes."""
    train = tree.get("train")
    for given, other in (("train.steps", "train.epochs"), ("train.epochs", "train.steps")):
        if given in newer and other not in newer and isinstance(train, dict):
            train.pop(other.removeprefix("train."), None)


def recipe_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """``key: old -> new`` for every leaf in which two resolved recipes differ."""
    a, b = dict(_leaves(old)), dict(_leaves(new))
    return [f"{k}: {json.dumps(a.get(k))} -> {json.dumps(b.get(k))}" for k in sorted({*a, *b}) if a.get(k) != b.get(k)]


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _assign(tree: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise KeyError(key)
    tree[keys[-1]] = value


def _toml_value(raw: str) -> Any:
    """A TOML value; what is not one is taken as text, so that paths need no quotes."""
    try:
        return tomllib.loads(f"v = {raw}")["v"]
    except tomllib.TOMLDecodeError:
        return raw
