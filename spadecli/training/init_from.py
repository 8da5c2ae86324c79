"""``--init``: start from spade's weights, a run or NVlabs files, carried over to the recipe's label space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.architecture import Architecture
from ..core.errors import UserError
from ..core.labelspace import LabelSpace
from ..core.recipe import DiscriminatorSection, Recipe
from ..core.recipe_files import find_recipe, load_recipe, resolve_weights
from ..model.discriminator import build_discriminator
from ..model.encoder import add_grid
from ..model.generator import resize_start
from ..store.h5 import file_sha256
from ..store.run_folder import Init, RunFolder
from ..weights.file import folded_state_dict, load_folded, load_weights
from ..weights.nvlabs import import_generator
from ..weights.nvlabs_training import files_beside, import_discriminator, options_for, semantic_channels
from ..weights.published import PRESETS, published_labels
from ..weights.remap import (
    ClassTransfer,
    differences,
    discriminator_places,
    generator_places,
    match_classes,
    remap_classes,
)
from .checkpoint import read_state
from .step import Trainer


@dataclass(frozen=True)
class InitWeights:
    """Networks to start from: effective weights of generator and encoder, and the discriminator's training state.

    file: the generator's file. labels: the label space of its semantic map. recipe: the recipe it was trained with,
        from its card; {} if the card has none.
    """

    file: Path
    architecture: Architecture
    labels: LabelSpace
    generator: dict[str, Tensor]
    encoder: dict[str, Tensor] | None = None
    discriminator: tuple[DiscriminatorSection, dict[str, Tensor]] | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def may_have_seen(self, recipe: Recipe) -> bool:
        """Whether these networks may have been trained on the recipe's validation pairs: same source, other split."""
        data, validation = self.recipe.get("data", {}), self.recipe.get("validation", {})
        if not recipe.data.source or data.get("source") != recipe.data.source:
            return False
        own = recipe.validation.model_dump(mode="json")
        same = all(validation.get(key) == own[key] for key in ("pairs", "names"))
        return not (validation.get("every") and same)

    def transfer(self, recipe: Recipe) -> ClassTransfer:
        """Match the classes of these networks with those of the recipe."""
        return match_classes(self.labels, recipe.labels)

    def lines(self, recipe: Recipe) -> list[str]:
        """Describe what is carried over, as lines of text."""
        parts = ["generator"]
        parts += ["encoder"] if self.encoder is not None and recipe.model.has_encoder else []
        parts += ["discriminator"] if self.discriminator is not None else []
        fresh = [
            name
            for name, is_there, is_wanted in (
                ("encoder", self.encoder is not None, recipe.model.has_encoder),
                ("discriminator", self.discriminator is not None, True),
            )
            if is_wanted and not is_there
        ]
        taken = f"starting from {self.file}: {', '.join(parts)}" + f" (fresh: {', '.join(fresh)})" * bool(fresh)
        return [taken, *self.transfer(recipe).lines]


def open_init(path: Path, recipe: Recipe, labels_of: str | None = None) -> InitWeights:
    """Read the argument of ``--init``: ``.safetensors`` or the name of shipped weights, a run, or ``NAME_net_G.pth``.

    labels_of: a recipe whose label space the networks were trained on, if the file does not say.
    Raises UserError, which lists every difference from the recipe's networks that cannot be bridged.
    """
    path = resolve_weights(path)
    if path.is_dir():
        start = _of_run(path)
    elif path.suffix == ".pth":
        start = _of_nvlabs(path, recipe, labels_of)
    elif path.suffix == ".pt":
        raise UserError(f"{path}: training state, not weights", hint=f"--init {path.parent} starts from the run")
    else:
        start = _of_weights(path)
    if labels_of is not None and path.suffix != ".pth":
        start = _relabelled(start, load_recipe(find_recipe(labels_of)).recipe.labels, labels_of)
    if start.discriminator and start.discriminator[0].kind != recipe.discriminator.kind:
        start = replace(start, discriminator=None)  # another kind begins fresh
    shape = start.discriminator[0] if start.discriminator else None
    problems = differences(start.architecture, recipe.model, shape, recipe.discriminator)
    if problems:
        hint = "give the recipe the file's values (--set model.ngf=...); label space, training size and encoder"
        raise UserError(f"{path}: cannot start this recipe", problems=problems, hint=f"{hint} may differ")
    if start.discriminator and not _has_layers(recipe, start.discriminator[1]):
        start = replace(start, discriminator=None)  # of another depth, which follows the size: it begins fresh
    return start


def _has_layers(recipe: Recipe, discriminator: Mapping[str, Tensor]) -> bool:
    """Whether the recipe's discriminator has the layers of a given one, whatever their shapes."""
    with torch.device("meta"):
        return build_discriminator(recipe).state_dict().keys() == discriminator.keys()


def init_record(start: InitWeights) -> Init:
    """Return the record of a start for run.json."""
    return Init(file=start.file.name, sha256=file_sha256(start.file))


def apply_init(trainer: Trainer, start: InitWeights) -> None:
    """Load the weights into a fresh trainer, in the recipe's label space, and restart the averages from them."""
    recipe, transfer = trainer.recipe, start.transfer(trainer.recipe)
    channels = start.labels.semantic_channels, recipe.labels.semantic_channels
    generator = resize_start(start.generator, start.architecture, recipe.model)
    fresh = folded_state_dict(trainer.generator)
    carried = remap_classes(generator, fresh, generator_places(trainer.generator), channels, transfer)
    # noise begins with weight 0: the function stays the same
    carried |= {name: value for name, value in fresh.items() if name.startswith("noises.") and name not in carried}
    problems = load_folded(trainer.generator, carried, "generator.")
    if trainer.encoder is not None and start.encoder is not None:
        added = 0 if start.architecture.encoder_grid else recipe.model.encoder_grid
        problems += load_folded(trainer.encoder, add_grid(start.encoder, added), "encoder.")
    if problems:
        raise UserError(f"{start.file}: does not fit the recipe's networks", problems=problems)
    if start.discriminator is not None:
        places = discriminator_places(trainer.discriminator)
        fresh = trainer.discriminator.state_dict()
        trainer.discriminator.load_state_dict(remap_classes(start.discriminator[1], fresh, places, channels, transfer))
    trainer.restart_ema()


def _of_weights(path: Path) -> InitWeights:
    card, generator, encoder = load_weights(path)
    states = folded_state_dict(generator), folded_state_dict(encoder) if encoder is not None else None
    return InitWeights(path, card.architecture, card.labels, *states, recipe=card.recipe)


def _of_run(path: Path) -> InitWeights:
    """Read the averages of a run, and its discriminator from the last checkpoint."""
    run = RunFolder(path)
    if not run.exists:
        raise UserError(f"{path}: not the folder of a run", hint="give weights (.safetensors) or NAME_net_G.pth")
    recipe = run.read().recipe
    discriminator = read_state(run.state_path)["trainer"]["networks"]["discriminator"]
    return replace(_of_weights(run.weights_path), discriminator=(recipe.discriminator, discriminator))


def _of_nvlabs(path: Path, recipe: Recipe, labels_of: str | None) -> InitWeights:
    channels = semantic_channels(path)
    labels = _labels_of_nvlabs(path, channels, recipe, labels_of)
    encoder_path, discriminator_path = files_beside(path)
    options = options_for(path, labels, recipe.model)
    architecture, generator, encoder = import_generator(path, encoder_path, options)
    discriminator = import_discriminator(discriminator_path, channels) if discriminator_path else None
    states = folded_state_dict(generator), folded_state_dict(encoder) if encoder is not None else None
    return InitWeights(path, architecture, labels, *states, discriminator)


def _labels_of_nvlabs(path: Path, channels: int, recipe: Recipe, labels_of: str | None) -> LabelSpace:
    """Find the label space of a checkpoint, which its file does not record: as given, the recipe's, or published."""
    if labels_of is not None:
        labels = load_recipe(find_recipe(labels_of)).recipe.labels
        _check_channels(path, channels, labels, labels_of)
        return labels
    if channels == recipe.labels.semantic_channels:
        return recipe.labels
    published = [published_labels(PRESETS[name]) for name in PRESETS if PRESETS[name].recipe]
    for labels in published:
        if labels.semantic_channels == channels:
            return labels
    known = ", ".join(f"{labels.name} {labels.semantic_channels}" for labels in (recipe.labels, *published))
    raise UserError(
        f"{path}: a semantic map of {channels} channels matches none of {known}",
        hint="--init-labels RECIPE names a recipe with the label space it was trained on",
    )


def _relabelled(start: InitWeights, labels: LabelSpace, origin: str) -> InitWeights:
    _check_channels(start.file, start.labels.semantic_channels, labels, origin)
    return replace(start, labels=labels)


def _check_channels(path: Path, channels: int, labels: LabelSpace, origin: str) -> None:
    if labels.semantic_channels != channels:
        raise UserError(
            f"--init-labels {origin}: {labels.semantic_channels} channels, but {path} was trained on {channels}",
            hint="these are the classes, including unknown, and the edge channel",
        )
