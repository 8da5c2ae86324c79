"""What Typer refuses before a command runs (unknown options, values of the wrong type), as an error of ours."""

from __future__ import annotations

import os
from typing import Any

import typer

from ..core.errors import UserError


def usage_error(refusal: typer.TyperException) -> UserError:
    """The refusal as a UserError; it names the environment variable where the value came from one."""
    from ..core.schema import in_plain_words

    context: Any = getattr(refusal, "ctx", None)
    what, colon, why = refusal.format_message().replace(": Value error, ", ": ", 1).partition(": ")  # from pydantic
    message = what + colon + in_plain_words(why)
    if variable := _variable(context, getattr(refusal, "param", None)):
        message = f"environment variable {variable}={os.environ[variable]}: {message}"
    command = context.command_path if context is not None else "spade"
    return UserError(message, hint=f"{command} -h lists what can be given")


def _variable(context: Any, option: Any) -> str:
    """The environment variable that an option took its value from, or ""."""
    source = context.get_parameter_source(option.name) if context is not None and option is not None else None
    if source is None or source.name != "ENVIRONMENT":
        return ""
    variable = f"{context.auto_envvar_prefix}_{option.name.upper()}"
    return variable if variable in os.environ else ""
