"""The packed pairs of a recipe: opened, checked against it, and split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..core.errors import UserError
from ..core.recipe import Recipe
from ..core.recipe_files import Resolved, shipped_recipes
from .dataset import TrainingSet
from .split import split_pairs


def _expected_files(recipe: Recipe) -> list[str]:
    """Describe the files that the packed file is made from, as the recipe names them."""
    data = recipe.data

    def files(what: str, folder: str, suffix: str) -> str:
        return f"{what}: {folder or '(no folder set)'}" + (f", files ending in {suffix}" if suffix else "")

    lines = [files("photos", data.photos, data.photo_suffix), files("masks", data.masks, data.mask_suffix)]
    if recipe.labels.instances:
        lines.append(files("instances", data.instances, data.instance_suffix))
    if data.outside:
        lines.append(files("outside", data.outside, ""))
    if data.scenes:
        lines.append(f"scenes: {data.scene_file}")
    return lines


def open_data(resolved: Resolved) -> tuple[TrainingSet, list[int]]:
    """Open the packed data and return it with the indices to train on. Raises UserError, which lists all problems."""
    recipe = resolved.recipe
    data, path = recipe.data, Path(recipe.data.packed)
    if not path.is_file():
        photos, masks = data.photos or "PHOTOS", data.masks or "MASKS"
        folders = "" if data.photos and data.masks else f"{photos} {masks} "
        origin = Path(resolved.origin)
        name = recipe.name if origin in shipped_recipes().values() else origin
        raise UserError(
            f"{path}: the packed data of recipe {recipe.name!r} are missing",
            problems=_expected_files(recipe),
            hint=f"spade pack {folders}--recipe {name} -o {path}",
        )
    dataset = TrainingSet(path, recipe)
    packed = dataset.packed
    problems = []
    if packed.labels != recipe.labels:
        problems.append(f"packed with label space {packed.labels.name!r}, which is not the recipe's")
    if tuple(packed.size) != tuple(data.load_size):
        problems.append(f"packed at {list(packed.size)}, data.load_size is {list(data.load_size)}")
    if recipe.labels.instances and not packed.has_instances:
        problems.append("packed without instance maps, which labels.instances needs")
    split = split_pairs(packed.names, recipe)
    problems += split.problems
    if problems:
        message = f"{path}: does not fit recipe {recipe.name!r}"
        raise UserError(message, problems=problems, hint="run spade pack again")
    return dataset, split.training


def unseen_classes(dataset: TrainingSet, indices: Sequence[int]) -> list[str]:
    """Return the names of the classes without a pixel in the pairs ``indices``.

    The packed file's report counts the images of each class in all pairs; the other pairs are read only if they could
    hold all images of a class.
    """
    rows = dataset.packed.report.get("classes", ())
    kept = sorted(set(range(len(dataset.packed.names))) - set(indices))
    elsewhere: Counter[int] = Counter()
    if any(0 < row["images"] <= len(kept) for row in rows):
        for index in kept:
            elsewhere.update(np.unique(dataset.channels(index)).tolist())
    channel = {c.name: i for i, c in enumerate(dataset.recipe.labels.classes)}
    return [str(row["name"]) for row in rows if row["images"] <= elsewhere[channel[row["name"]]]]
