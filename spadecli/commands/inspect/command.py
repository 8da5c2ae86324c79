"""Say what is in a file or folder, what is wrong with it, and whether it fits given weights."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import UserError
from ...core.labelspace import LabelSpace
from ...core.recipe_files import find_recipe, load_recipe, resolve_weights, shipped_recipes
from ...core.report import Report, Silent
from ...data.folder import EXPECTED, Item, scan
from ...data.masks import MaskFormat
from ..styles.usage import measure_style
from .describe_artifacts import describe_artifact
from .describe_files import describe_h5, describe_recipe, describe_weights
from .describe_folders import describe_renders, describe_run, is_renders, is_run
from .describe_masks import describe_folder, describe_mask


@dataclass(frozen=True)
class InspectOptions:
    """What to look at, and against which label space: that of weights, or that of a recipe (not both).

    photos, masks: of weights with an encoder, measure on them how much style is used; masks None for the example
    masks. holdout: only what this recipe holds out.
    """

    path: Path
    weights: Path | None = None
    recipe: str | None = None
    mask_format: MaskFormat = "auto"
    photos: Path | None = None
    masks: Path | None = None
    holdout: str = ""


@dataclass(frozen=True)
class Inspection:
    """What was found: ``kind`` in words, ``facts`` as plain JSON values, ``rows`` of a table of classes or values.

    fits: the label space that everything fits, "" where none was asked for.
    """

    path: str
    kind: str
    facts: dict[str, Any]
    rows: tuple[dict[str, Any], ...] = ()
    fits: str = ""


def inspect(options: InspectOptions, report: Report | None = None) -> Inspection:
    """Describe a mask, a folder of masks, renders or a run, a recipe, weights (.safetensors, .onnx, .engine) or an .h5
    file of spade's.

    Raises UserError where it is unreadable, of unknown kind, or does not fit the label space asked for; all
    problems are listed.
    """
    _check(options)
    labels, owner = _label_space(options)
    path = options.path
    suffix = path.suffix.lower()
    if is_renders(path):
        kind, facts, rows, own = describe_renders(path)
        _same_classes(path, own, labels, owner)
    elif is_run(path):
        kind, facts, rows, own = describe_run(path)
        _same_classes(path, own, labels, owner)
    elif path.is_dir():
        kind, facts, rows = describe_folder(path, labels, options.mask_format, report or Silent())
    elif suffix == ".toml" or str(path) in shipped_recipes():
        kind, facts, rows, own = describe_recipe(str(path))
        _same_classes(path, own, labels, owner)
    elif suffix == ".safetensors":
        kind, facts, rows, own = describe_weights(path)
        facts |= _style(options, facts, report or Silent())
        _same_classes(path, own, labels, owner)
    elif suffix in (".onnx", ".engine"):
        kind, facts, rows, own = describe_artifact(path)
        _same_classes(path, own, labels, owner)
    elif suffix == ".h5":
        kind, facts, rows, own = describe_h5(path)
        _same_classes(path, own, labels, owner)
    elif not path.exists():
        raise UserError(f"{path}: no such file or folder, and no shipped recipe of that name")
    elif suffix in EXPECTED["photos"] or suffix in EXPECTED["masks"]:
        kind, facts, rows = describe_mask(path, labels, options.mask_format)
    elif suffix == ".pth":
        raise UserError(f"{path}: a PyTorch checkpoint; only imported weights are read", hint=f"spade convert {path}")
    else:
        raise UserError(
            f"{path}: unknown kind of file",
            hint="expected a mask (.png, .npy), a recipe (.toml), .safetensors, .onnx, .engine, .h5, or a folder of "
            "masks or renders",
        )
    return Inspection(str(path), kind, facts, tuple(rows), owner)


def _check(options: InspectOptions) -> None:
    if options.photos is None and (options.masks or options.holdout):
        raise UserError("--masks and --holdout say how style is measured; give --photos too")
    if options.photos is not None and options.path.suffix.lower() != ".safetensors":
        raise UserError(f"--photos measures the style of weights, and {options.path} is not weights")


def _style(options: InspectOptions, facts: dict[str, Any], report: Report) -> dict[str, Any]:
    """How much style weights with an encoder use: measured where photos are given, else from their card."""
    if options.photos is not None:
        names = load_recipe(find_recipe(options.holdout)).recipe.data.holdout if options.holdout else ()
        photos = _named(scan(options.photos, "photos"), names, options.photos)
        masks = _named(scan(options.masks), names, options.masks) if options.masks else None
        found = measure_style(options.path, photos, masks, "auto", report, options.mask_format)
        return {"style": found.as_json()}
    if facts["architecture"].get("latent") != "encoder":  # a segmenter has no latent at all
        return {}
    if "usage" in (known := facts["metrics"].get("style", {})):
        return {"style": known}
    report.note(f"style: not measured; spade inspect {options.path} --photos DIR measures how much of it is used")
    return {}


def _named(items: list[Item], names: Collection[str], folder: Path) -> list[Item]:
    """Those whose key is among ``names``; all of them where ``names`` is empty."""
    found = [item for item in items if item.key in names] if names else items
    if not found:
        raise UserError(f"{folder}: none of the {len(items)} files has a name that is held out")
    return found


def _label_space(options: InspectOptions) -> tuple[LabelSpace | None, str]:
    if options.weights is not None and options.recipe is not None:
        raise UserError("--for and --recipe both name a label space; give one")
    if options.weights is not None:
        from ...weights.file import read_card

        return read_card(resolve_weights(options.weights)).labels, str(options.weights)
    if options.recipe is not None:
        recipe = load_recipe(find_recipe(options.recipe)).recipe
        return recipe.labels, f"recipe {recipe.name}"
    return None, ""


def _same_classes(path: Path, own: LabelSpace | None, wanted: LabelSpace | None, owner: str) -> None:
    """Raise UserError that lists where two label spaces give a file value to different classes."""
    if wanted is None:
        return
    if own is None:
        raise UserError(f"{path}: has no label space that could fit {owner}")
    a, b = ({v: c.name for c in labels.classes for v in c.values} for labels in (own, wanted))
    problems = [
        f"value {v}: {a.get(v, 'no class')} here, {b.get(v, 'no class')} there"
        for v in sorted({*a, *b})
        if a.get(v) != b.get(v)
    ]
    if [c.name for c in own.classes] != [c.name for c in wanted.classes] and not problems:
        problems.append("the classes have another order")
    if own.instances != wanted.instances:
        problems.append(f"instance-edge channel: {own.instances} here, {wanted.instances} there".lower())
    if problems:
        raise UserError(f"{path}: its label space does not fit {owner}", problems=problems)
