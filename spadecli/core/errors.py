"""The three ways a command can fail on purpose; anything else that is raised is a bug (exit code 1)."""

from __future__ import annotations

from collections.abc import Sequence


class SpadeError(Exception):
    """A failure with a message for the user: one line, the problems behind it, one hint.

    ``message`` names the file and the value; ``problems`` lists every mistake, not just the first; ``hint`` says what
    to do next. ``common``: every process of a run raises it, so only one of them prints it. ``secondary``: it is the
    consequence of a failure elsewhere.
    """

    exit_code = 1
    common = False
    secondary = False

    def __init__(self, message: str, *, hint: str = "", problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.problems = tuple(problems)

    @property
    def line(self) -> str:
        """Message and problems on one line, for a list of several failures."""
        return f"{self.message}: {'; '.join(self.problems)}" if self.problems else self.message

    def __str__(self) -> str:
        lines = [self.message, *(f"  - {p}" for p in self.problems)]
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)


class UserError(SpadeError):
    """The input or the options are wrong; nothing was written."""

    exit_code = 2


def refuse(problems: Sequence[str], summary: str = "wrong options", hint: str = "") -> None:
    """Raise one UserError for all problems, with a single one in place of ``summary``; return if there are none."""
    if len(problems) == 1:
        raise UserError(problems[0], hint=hint)
    if problems:
        raise UserError(summary, problems=problems, hint=hint)


class BackendUnavailable(SpadeError):
    """A device or an optional package is missing; the hint is the line that installs it."""

    exit_code = 3


class PartialFailure(SpadeError):
    """A batch finished, but some of its items failed; ``problems`` names them."""

    exit_code = 4
