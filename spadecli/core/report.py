"""How a stage reports what it is doing, independent of a terminal.

Stages take a :class:`Report`. The command line passes one that draws with Rich; the default in Python is silent
except for warnings.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


def count(n: int, noun: str) -> str:
    """Return a number with its noun: "1 mask", "2,000 masks"."""
    return f"{n:,} {noun}{'s' * (n != 1)}"


class Task(Protocol):
    """One progress bar."""

    def advance(self, n: int = 1, status: str = "") -> None:
        """Advance by ``n`` items; ``status`` replaces the short text beside the bar."""


class Report(Protocol):
    """Where a stage's messages go. Results are never sent here: they are return values."""

    def note(self, text: str, level: int = 0) -> None:
        """Show a message; ``level`` 1 and 2 show only with ``-v`` and ``-vv``."""

    def warn(self, text: str) -> None:
        """Show a warning: something the user should act on."""

    def progress(self, title: str, total: int, done: int = 0) -> AbstractContextManager[Task]:
        """Open a progress bar of ``total`` items, of which ``done`` are already finished."""


class _NoTask:
    def advance(self, n: int = 1, status: str = "") -> None:
        pass


class Silent:
    """The default report: only warnings are shown, through :mod:`warnings`."""

    def note(self, text: str, level: int = 0) -> None:
        """Drop the note."""

    def warn(self, text: str) -> None:
        """Issue a Python warning."""
        warnings.warn(text, stacklevel=3)

    @contextmanager
    def progress(self, title: str, total: int, done: int = 0) -> Iterator[Task]:
        """Yield a task that shows nothing."""
        yield _NoTask()


class Muted(Silent):
    """A report that shows nothing, for the processes of a run other than process 0."""

    def warn(self, text: str) -> None:
        """Drop the warning."""
