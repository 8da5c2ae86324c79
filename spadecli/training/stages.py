"""From one stage of a run to the next: everything that was learned goes on, in networks of another size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.recipe import Recipe
from ..model.generator import START, resize_start
from .step import Trainer


def carry_over(trainer: Trainer, recipe: Recipe) -> Trainer:
    """Return a trainer for ``recipe``, the next stage's, that goes on from where ``trainer`` stands.

    The generator's first linear layer, and its average, are resized with the start grid; its Adam moments start anew.
    Everything else is carried over as it is: encoder and discriminator do not depend on the size of the images. Both
    trainers exist at once for a moment, without feature maps.
    """
    carried = Trainer(recipe, trainer.device)
    carried.load_state_dict(resized_state(trainer, recipe))
    return carried


def resized_state(trainer: Trainer, recipe: Recipe) -> Mapping[str, Any]:
    """Return the state of a trainer (see Trainer.state_dict) as one of ``recipe``, of another model.size, has it."""
    state, old, new = trainer.state_dict(), trainer.recipe.model, recipe.model
    if not old.uses_z or old.start_grid == new.start_grid:
        return state
    networks, ema = state["networks"], state["ema"]
    of_generator, of_discriminator = state["optimizers"]
    resized = {i for i, (name, _) in enumerate(trainer.generator.named_parameters()) if name in START}
    moments = {i: moment for i, moment in of_generator["state"].items() if i not in resized}
    averages = ema["averages"]
    return {
        **state,
        "networks": {**networks, "generator": resize_start(networks["generator"], old, new)},
        "ema": {**ema, "averages": {**averages, "generator": resize_start(averages["generator"], old, new)}},
        "optimizers": [{**of_generator, "state": moments}, of_discriminator],
    }
