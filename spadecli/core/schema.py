"""Validation of files with pydantic: every mistake at once, as readable lines.

Recipes, cards, label spaces and side files are pydantic models. :func:`check_all` adds contradictions between fields to
the errors that pydantic finds field by field; :func:`describe_errors` turns both into lines that name key and value.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ModelWrapValidatorHandler, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

M = TypeVar("M", bound=BaseModel)


def as_size(value: Any) -> tuple[int, int] | None:
    """Return a raw [height, width] as a tuple, or None if it is something else (an error reported separately)."""
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(v, int) for v in value):
        return value[0], value[1]
    return None


def check_all(
    model: type[M],
    tree: Any,
    check: ModelWrapValidatorHandler[M],
    contradictions: Callable[[dict[str, Any]], list[str]],
) -> M:
    """In a wrap validator, ``check`` the fields, look for ``contradictions`` in the raw table, and raise both together.

    Pydantic's own after-validators do not run when a field is wrong, so the user would see their errors only on the
    next attempt. ``contradictions`` may fail on values of the wrong type: the errors of the fields then suffice.
    """
    errors: list[InitErrorDetails] = []
    checked = None
    try:
        checked = check(tree)
    except ValidationError as e:
        for item in e.errors():
            kind = PydanticCustomError(item["type"], "{text}", {"text": item["msg"]})
            errors.append(InitErrorDetails(type=kind, loc=item["loc"], input=item["input"]))
    if isinstance(tree, dict):
        try:
            found = contradictions(tree)
        except (TypeError, ValueError, KeyError, AttributeError):
            if not errors:
                raise
            found = []
        for text in found:
            errors.append(
                InitErrorDetails(type=PydanticCustomError("contradiction", "{text}", {"text": text}), input=tree)
            )
    if errors or checked is None:
        raise ValidationError.from_exception_data(model.__name__, errors)
    return checked


def describe_errors(
    error: ValidationError,
    model: type[BaseModel],
    sources: Mapping[str, str] | None = None,
    more_keys: Mapping[str, Sequence[str]] | None = None,
) -> list[str]:
    """Return one line per mistake in a table of ``model``: key, value, what was expected, the key probably meant.

    sources: where a key comes from if not from the file itself. more_keys: keys of a section ("" is the top level) that
    are read before the model is built and so are not among its fields.
    """
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"] if part != "[key]") or model.__name__.lower()
        source = source_of(sources or {}, key)
        origin = "" if source == "default" else f" [{source}]"
        if item["type"] == "extra_forbidden":
            lines.append(f"{key}: unknown key{_meant(item['loc'], model, more_keys or {})}{origin}")
        elif item["type"] == "missing":
            lines.append(f"{key}: missing{origin}")
        else:
            value = item["input"]
            shown = "" if isinstance(value, dict | list | tuple | BaseModel) else f" (found {value!r})"
            lines.append(f"{key}: {in_plain_words(item['msg'])}{shown}{origin}")
    return lines


# pydantic's wording -> ours; the first pattern that matches counts
WORDS = (
    (r"Value error, ", ""),
    (r"Input should be a valid (tuple|list|set)$", "expected a list"),
    (r"Input should be a valid integer.*", "expected a whole number"),
    (r"Input should be a valid number.*", "expected a number"),
    (r"Input should be a valid string", "expected text"),
    (r"Input should be a valid boolean.*", "expected true or false"),
    (r"Input should be a valid dictionary.*", "expected a table"),
    (r"Input should be greater than or equal to ", "expected at least "),
    (r"Input should be greater than ", "expected more than "),
    (r"Input should be less than or equal to ", "expected at most "),
    (r"Input should be ", "expected "),
    (r"(Tuple|List|String) should have at least 1 (item|character).*", r"expected at least one \2"),
    (r"(Tuple|List|String) should have at least (\d+) (item|character)s?.*", r"expected at least \2 \3s"),
    (r"(Tuple|List|String) should have at most (\d+) (item|character)s?.*", r"expected at most \2 \3s"),
    (r"String should match pattern ", "expected text that matches "),
)


def in_plain_words(message: str) -> str:
    """Return pydantic's message in our words."""
    for pattern, words in WORDS:
        if re.match(pattern, message):
            return re.sub(pattern, words, message, count=1)
    return message


def source_of(sources: Mapping[str, str], key: str) -> str:
    """Return the source of a key, or of the section or list it is part of; "default" if none is known."""
    while key and key not in sources:
        key = key.rpartition(".")[0]
    return sources.get(key, "default")


def _meant(loc: Sequence[str | int], model: type[BaseModel], more_keys: Mapping[str, Sequence[str]]) -> str:
    """Suggest the key that was probably meant: a similar one of the same section, else the same one of another."""
    name, section = str(loc[-1]), ".".join(str(part) for part in loc[:-1] if not isinstance(part, int))
    keys = dict(_keys(model, more_keys))
    near = difflib.get_close_matches(name, keys.get(section, []), 1)
    meant = [(section, key) for key in near] + [(other, name) for other, names in keys.items() if name in names]
    if meant:
        return f" (did you mean {'.'.join(part for part in meant[0] if part)!r}?)"
    return f" ({section or model.__name__.lower()} has {', '.join(keys[section])})" if section in keys else ""


def _keys(
    model: type[BaseModel], more_keys: Mapping[str, Sequence[str]], section: str = ""
) -> Iterator[tuple[str, list[str]]]:
    """Yield (section, its keys) for every section of a model."""
    yield section, [*model.model_fields, *more_keys.get(section, ())]
    for name, field in model.model_fields.items():
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _keys(kind, more_keys, f"{section}.{name}".lstrip("."))
