"""Recipes, weights and HDF5 files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...core.labelspace import LabelSpace
from ...core.recipe_files import find_recipe, load_recipe
from ...store import h5
from ...store.manifest import Row

Rows = list[dict[str, Any]]
Description = tuple[str, dict[str, Any], Rows, LabelSpace | None]


def describe_recipe(name: str) -> Description:
    """(kind, facts, classes, label space) of a recipe, resolved; facts also say which of its files are there.

    Raises UserError that lists every mistake in it.
    """
    path = find_recipe(name)
    recipe = load_recipe(path).recipe
    tree = recipe.model_dump(mode="json", exclude={"labels"})
    there = {
        what: Path(place).exists()
        for what in ("photos", "masks", "instances", "packed")
        if (place := getattr(recipe.data, what))
    }
    facts = {"file": str(path), **tree, "labels": labels_in_short(recipe.labels), "files_exist": there}
    return "recipe", facts, class_rows(recipe.labels), recipe.labels


def describe_weights(path: Path) -> Description:
    """(kind, facts, classes, label space) of a weights file, from its header alone.

    Raises UserError where the file is no weights file of this project.
    """
    from ...segmenter.file import is_segmenter, read_segmenter_card
    from ...weights.file import count_parameters, read_card

    segmenter = is_segmenter(path)
    card = read_segmenter_card(path) if segmenter else read_card(path)
    facts = {
        **card.model_dump(mode="json", exclude={"labels"}),
        "labels": labels_in_short(card.labels),
        "parameters": count_parameters(path),
        "bytes": path.stat().st_size,
    }
    return "segmenter weights" if segmenter else "weights", facts, class_rows(card.labels), card.labels


def describe_h5(path: Path) -> Description:
    """(kind, facts, classes, label space or None) of one of spade's HDF5 files.

    Raises UserError where the file is missing, damaged, unfinished or of another program.
    """
    with h5.open_read(path) as f:
        kind = str(f.attrs["format"]).removeprefix("spade-")
        config = h5.config_of(f)
        datasets: dict[str, str] = {}
        f.visititems(lambda name, node: datasets.update({name: _shape(node)}) if hasattr(node, "shape") else None)
        attributes = {k: _plain(v) for k, v in f.attrs.items() if k not in ("format", "config_json", "report_json")}
    labels = LabelSpace.model_validate(config.pop("labels")) if "labels" in config else None
    if kind == "renders":
        config["options"] = [options_in_short(row) for row in config["options"]]
    facts: dict[str, Any] = {**attributes, "config": config, "datasets": datasets, "bytes": path.stat().st_size}
    if labels is not None:
        facts["labels"] = labels_in_short(labels)
    if kind != "packed":
        return kind, facts, class_rows(labels) if labels else [], labels
    return "packed", *_packed(path, facts), labels


def _packed(path: Path, facts: dict[str, Any]) -> tuple[dict[str, Any], Rows]:
    from ...data.packed import Packed

    packed = Packed(path)
    facts = {"pairs": len(packed), **facts, "photo_sizes": packed.report["photo_sizes"]}
    return facts, [
        {"value": r["value"], **c} for r, c in zip(class_rows(packed.labels), packed.report["classes"], strict=True)
    ]


def labels_in_short(labels: LabelSpace) -> dict[str, Any]:
    """A label space without its classes."""
    return {
        "name": labels.name,
        "classes": labels.num_classes,
        "unknown": labels.unknown,
        "instances": labels.instances,
    }


def options_in_short(row: Row) -> dict[str, Any]:
    """The fields of the ``options`` row of renders that people look for."""
    wanted = ("weights", "weights_sha256", "seed", "shared_z", "size", "edges", "format", "quality")
    return {key: row[key] for key in wanted if row.get(key) not in (None, "", False)}


def class_rows(labels: LabelSpace) -> Rows:
    """File values and name of every class."""
    return [{"value": ", ".join(map(str, c.values)), "name": c.name} for c in labels.classes]


def _shape(node: Any) -> str:
    return f"{'text' if node.dtype.kind == 'O' else node.dtype} {list(node.shape)}"


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
