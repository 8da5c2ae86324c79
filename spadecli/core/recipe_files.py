"""Finding and reading recipes.

A recipe is resolved from the shipped or given TOML, the recipe it ``extends``, ``SPADE_TRAIN_SET`` and ``--set
key=value``. The source of every value is recorded, and all mistakes are reported at once.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from .errors import UserError
from .recipe import Recipe
from .schema import describe_errors, source_of

DEFAULT_SET = "facades"
KEYS_READ_BEFORE = {"": ("extends",), "labels.classes": ("value",)}  # TOML keys that become other fields


@dataclass(frozen=True)
class Resolved:
    """A checked recipe, the source of each value ("train.batch" -> "--set", ...), and the recipe's file."""

    recipe: Recipe
    sources: Mapping[str, str]
    origin: str

    def source(self, key: str) -> str:
        """Return the source of a value: a file, "--set" or "default"."""
        return source_of(self.sources, key)

    def settings(self) -> list[tuple[str, Any, str]]:
        """Return (key, value, source) of every value, with keys like "train.batch"."""
        tree = self.recipe.model_dump(mode="json")
        return [(key, value, self.source(key)) for key, value in _leaves(tree)]


def recipes_dir() -> Path:
    """Return the folder of the shipped recipes."""
    return shipped_dir("recipes")


def shipped_dir(what: str) -> Path:
    """Return a folder of shipped files (``recipes``, ``weights``): the wheel's; in an editable install, the clone's."""
    package = Path(__file__).resolve().parents[1]
    base = package / "shipped"
    return (base if base.is_dir() else package.parent) / what


def shipped_sets() -> list[str]:
    """Names of the recipes that example masks are shipped for, the default one first."""
    others = (p.name for p in shipped_dir("weights").glob("examples/*") if p.name != DEFAULT_SET)
    return [DEFAULT_SET, *sorted(others)]


def shipped_weights(name: str = DEFAULT_SET) -> Path:
    """Return the file of the generator weights that are shipped for the recipe ``name``."""
    return shipped_dir("weights") / f"{name}.safetensors"


def resolve_weights(given: Path | None) -> Path:
    """Return the weights file that is given, or shipped under that name; None is the default one."""
    if given is None:
        return shipped_weights()
    is_name = given.name == str(given) and given.name in shipped_sets()
    is_there = given.is_file() or (given / "run.json").is_file()
    return shipped_weights(given.name) if is_name and not is_there and shipped_weights(given.name).is_file() else given


def shipped_examples(name: str = DEFAULT_SET) -> dict[str, Path]:
    """Name -> file of each example mask that is shipped for the recipe ``name``."""
    return {p.stem: p for p in sorted(shipped_dir("weights").glob(f"examples/{name}/*.png"))}


def shipped_recipes() -> dict[str, Path]:
    """Return name -> file of each shipped recipe."""
    return {p.stem: p for p in sorted(recipes_dir().glob("*.toml"), key=lambda p: p.stem)}


def find_recipe(name: str) -> Path:
    """Return the file of a recipe given by name or by path. Raises UserError if there is none."""
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

    Raises UserError, which lists every mistake.
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
    _drop_other_length(tree, {key for key, source in sources.items() if source == "--set"}, tree.get("stage"))
    recipe = None
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as e:
        problems += describe_errors(e, Recipe, {k: v for k, v in sources.items() if v != str(path)}, KEYS_READ_BEFORE)
    if problems or recipe is None:
        raise UserError(f"{path}: {len(problems)} mistake{'s' * (len(problems) != 1)} in the recipe", problems=problems)
    return Resolved(recipe, sources, str(path))


def _read_tree(path: Path, above: tuple[Path, ...] = ()) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a recipe's TOML, merged over the recipe it extends; also return the file that each value comes from."""
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
    _drop_other_length(below, sources, tree.get("stage"))
    merged = _merge(below, tree)
    return merged, {key: sources.get(key) or base_sources[key] for key, _ in _leaves(merged)}


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge tables key by key; any other value replaces the one below it."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _drop_other_length(tree: dict[str, Any], newer: Collection[str], stages: Any) -> None:
    """Steps, epochs and stages exclude each other: if one is newly given, drop inherited steps and epochs.

    Inherited stages are more than a length, and are not dropped.
    """
    train = tree.get("train")
    if "stage" in newer and stages and isinstance(train, dict):
        for key in {"train.steps", "train.epochs"} - set(newer):
            train.pop(key.removeprefix("train."), None)
    for given, other in (("train.steps", "train.epochs"), ("train.epochs", "train.steps")):
        if given in newer and other not in newer and isinstance(train, dict):
            train.pop(other.removeprefix("train."), None)


def recipe_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return ``key: old -> new`` for every leaf in which two resolved recipes differ."""
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
    """Parse a TOML value; anything else is taken as text, so that paths need no quotes."""
    try:
        return tomllib.loads(f"v = {raw}")["v"]
    except tomllib.TOMLDecodeError:
        return raw
