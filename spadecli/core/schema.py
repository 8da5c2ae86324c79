"""Every mistake at once: what pydantic finds field by field, and what only the whole can tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ModelWrapValidatorHandler, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError


def as_size(value: Any) -> tuple[int, int] | None:
    """A raw [height, width], or None where it is something else (which is a mistake of its own)."""
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(v, int) for v in value):
        return value[0], value[1]
    return None


M = TypeVar("M", bound=BaseModel)


def check_all(
    model: type[M],
    tree: Any,
    check: ModelWrapValidatorHandler[M],
    contradictions: Callable[[dict[str, Any]], list[str]],
) -> M:
    """For a wrap validator: ``check`` the fields, look for ``contradictions`` in the raw table, raise both together.

    Pydantic's own after-validators do not run where a field is wrong, so its user would meet them one run later.
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
        for text in contradictions(tree):
            errors.append(
                InitErrorDetails(type=PydanticCustomError("contradiction", "{text}", {"text": text}), input=tree)
            )
    if errors or checked is None:
        raise ValidationError.from_exception_data(model.__name__, errors)
    return checked
