"""How a stage tells what it is doing, without knowing about terminals.

Stages take a :class:`Report`; the command line passes one that draws with Rich, the Python API by default
one that is silent except for warnings.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


def count(n: int, noun: str) -> str:
    """ "1 mask", "2,000 masks"."""
    return f"{n:,} {noun}{'s' * (n != 1)}"


class Task(Protocol):
    """One progress bar."""

    def advance(self, n: int = 1, status: str = "") -> None:
        """Move on by ``n`` items; ``status`` replaces the short text beside the bar."""


class Report(Protocol):
    """Where a stage's messages go. Nothing of it is a result: results are return values."""

    def note(self, text: str, level: int = 0) -> None:
        """Tell something; ``level`` 1 and 2 show only with ``-v`` and ``-vv``."""

    def warn(self, text: str) -> None:
        """Tell something the user should act on."""

    def progress(self, title: str, total: int, done: int = 0) -> AbstractContextManager[Task]:
        """Open a progress bar of ``total`` items, of which ``done`` are there already."""


class _NoTask:
    def advance(self, n: int = 1, status: str = "") -> None:
        pass


class Silent:
    """The default report: only warnings are shown, through :mod:`warnings`."""

    def note(self, text: str, level: int = 0) -> None:
        """Drop the note."""

    def warn(self, text: str) -> None:
        """Pass on as a Python warning."""
        warnings.warn(text, stacklevel=3)

    @contextmanager
    def progress(self, title: str, total: int, done: int = 0) -> Iterator[Task]:
        """Yield a task that shows nothing."""
        yield _NoTask()


class Muted(Silent):
    """For the processes of a run that leave talking to another one."""

    def warn(self, text: str) -> None:
        """Drop the warning."""
