"""Mapping the classes of a foreign segmenter to ours, in a small TOML file:

recipe = "camvid"           # recipe with the label space of the predictions; optional if the scored masks have one
rest = "unlabelled"         # our class for all that are not listed; default: the unknown class
names = ["road", "car"]     # ONNX only: names of the model's classes in order; default: their numbers

[classes]                   # theirs, by name or number = ours
road = "road"
"13" = "car"

[input]                     # ONNX only, see spadecli.segmenter.onnx_segmenter
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..core.errors import UserError
from ..core.labelspace import LabelSpace
from ..core.recipe_files import find_recipe, load_recipe
from ..core.schema import describe_errors

MAX_LISTED = 12


class InputSection(BaseModel):
    """Input of an ONNX segmenter: (pixel / 255 - mean) / std for each channel, at ``size``.

    size: (height, width); default: the graph's fixed size, or that of the pictures. bgr: channel order blue, green,
    red.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    size: tuple[int, int] | None = None
    bgr: bool = False


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str | None = None
    rest: str | None = None
    names: tuple[str, ...] = ()
    classes: dict[str, str] = Field(default_factory=dict)
    input: InputSection = InputSection()


class ClassMapping(BaseModel):
    """The contents of a mapping file. ``labels``: the label space of its recipe, or None. ``file``: for messages."""

    model_config = ConfigDict(frozen=True)

    file: str
    labels: LabelSpace | None = None
    rest: str | None = None
    names: tuple[str, ...] = ()
    classes: dict[str, str] = Field(default_factory=dict)
    input: InputSection = InputSection()


def read_mapping(path: Path) -> ClassMapping:
    """Read a mapping file. Raises UserError, which lists every mistake in it."""
    if not path.is_file():
        raise UserError(f"{path}: no such class mapping file")
    try:
        tree = tomllib.loads(path.read_text("utf-8"))
        file = _File.model_validate(tree)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: not valid TOML: {e}") from e
    except ValidationError as e:
        raise UserError(f"{path}: mistakes in the class mapping", problems=describe_errors(e, _File)) from e
    labels = None
    if file.recipe is not None:
        beside = path.parent / file.recipe
        name = beside if beside.is_file() else find_recipe(file.recipe)
        labels = load_recipe(name).recipe.labels
    rest = file.model_dump(include={"rest", "names", "classes"})
    return ClassMapping(file=str(path), labels=labels, input=file.input, **rest)


def channel_table(
    model: str, theirs: Sequence[str], mapping: ClassMapping | None, labels: LabelSpace | None
) -> tuple[LabelSpace, NDArray[np.uint8]]:
    """Return the label space of the predictions, and our channel of each of their classes, uint8 [len(theirs)].

    theirs: the names of their classes in order. Without a mapping, classes are matched by name (ignoring case, hyphens
    and underscores), and the rest is mapped to the unknown class.
    Raises UserError, which lists every name that one side lacks, and the classes that cannot be mapped.
    """
    space = (mapping.labels if mapping else None) or labels
    if space is None:
        raise UserError(
            f"{model}: the label space of its classes is not known",
            hint='name it in a mapping file (--mapping): recipe = "camvid", then [classes] road = "road" and so on',
        )
    ours = {c.name: i for i, c in enumerate(space.classes)}
    target, problems = _listed(theirs, mapping, ours) if mapping and mapping.classes else _same_names(theirs, ours)
    where = mapping.file if mapping else model
    if not target and not problems:
        problems.append(f"no class of the model is named like one of label space {space.name!r}")
    rest = (mapping.rest if mapping else None) or space.unknown
    if rest is not None and rest not in ours:
        problems.append(f"rest = {rest!r} is not a class of label space {space.name!r}")
    left = [name for i, name in enumerate(theirs) if i not in target]
    if left and rest is None:
        more = f" and {len(left) - MAX_LISTED} more" if len(left) > MAX_LISTED else ""
        shown = ", ".join(left[:MAX_LISTED]) + more
        problems.append(f"label space {space.name!r} has no unknown class for those that are not listed: {shown}")
    if problems:
        raise UserError(
            f"{where}: the classes of {model} do not fit label space {space.name!r}",
            problems=problems,
            hint="list them under [classes] in a mapping file, theirs = ours; rest = NAME maps all others",
        )
    table = np.full(len(theirs), 0 if rest is None else ours[rest], np.uint8)
    for i, channel in target.items():
        table[i] = channel
    return space, table


def _listed(theirs: Sequence[str], mapping: ClassMapping, ours: dict[str, int]) -> tuple[dict[int, int], list[str]]:
    """Map their indices to our channels as the file lists them; a key is a name, or else a number."""
    target: dict[int, int] = {}
    problems: list[str] = []
    for key, name in mapping.classes.items():
        numbered = int(key) if key.isdigit() and key not in theirs else None
        found = [i for i, t in enumerate(theirs) if t == key] if numbered is None else [numbered]
        if not found or found[-1] >= len(theirs):
            problems.append(f"{key!r} is not a class of the model{_near(key, theirs)} (it has {len(theirs)})")
        if name not in ours:
            problems.append(f"{key} = {name!r}: no class of the label space has that name{_near(name, list(ours))}")
        else:
            target |= dict.fromkeys(found, ours[name])
    return target, problems


def _same_names(theirs: Sequence[str], ours: dict[str, int]) -> tuple[dict[int, int], list[str]]:
    plain = {_plain(name): channel for name, channel in ours.items()}
    return {i: plain[_plain(name)] for i, name in enumerate(theirs) if _plain(name) in plain}, []


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ").replace("-", " ").strip()


def _near(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f", did you mean {close[0]!r}?" if close else ""
