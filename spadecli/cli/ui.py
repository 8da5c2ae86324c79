"""The terminal: results on stdout, everything else on stderr; Rich for people, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..core.errors import SpadeError
from ..core.json_text import json_text
from ..core.report import Task
from .help import COMMON

Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="results only", rich_help_panel=COMMON)]
Verbose = Annotated[int, typer.Option("-v", "--verbose", count=True, rich_help_panel=COMMON)]
AsJson = Annotated[bool, typer.Option("--json", rich_help_panel=COMMON)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="check, write nothing", rich_help_panel=COMMON)]


class _Bar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, n: int = 1, status: str = "") -> None:
        if status:
            self._progress.update(self._task, status=status)
        self._progress.advance(self._task, n)


TABLE_WIDTH = 200  # characters, at least


class UI:
    """One command's voice; a :class:`spadecli.core.report.Report` that draws with Rich on stderr."""

    def __init__(self, quiet: bool = False, verbose: int = 0, as_json: bool = False) -> None:
        self.quiet, self.verbose, self.as_json = quiet, verbose, as_json
        self.err = Console(stderr=True, highlight=False, emoji=False)
        self.out = Console(highlight=False, soft_wrap=True, emoji=False)

    def note(self, text: str, level: int = 0) -> None:
        """Print on stderr; ``level`` 1 and 2 need -v and -vv."""
        if not self.quiet and level <= self.verbose:
            self.err.print(escape(text), style="dim" if level else None, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a warning on stderr, unless quiet."""
        if not self.quiet:
            self.err.print(f"[yellow]warning:[/yellow] {escape(text)}", soft_wrap=True)

    def progress(self, title: str, total: int, done: int = 0) -> AbstractContextManager[Task]:
        """A bar on stderr; plain silence where stderr is no terminal."""
        return self._bar(title, total, done)

    @contextmanager
    def _bar(self, title: str, total: int, done: int) -> Iterator[Task]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}", style="dim"),
        )
        hidden = self.quiet or not self.err.is_terminal
        with Progress(*columns, console=self.err, transient=True, disable=hidden) as progress:
            yield _Bar(progress, progress.add_task(escape(title), total=total, completed=done, status=""))

    def result(self, data: dict[str, Any], lines: list[str] | None = None, tables: tuple[Table, ...] = ()) -> None:
        """Print a command's result on stdout: ``data`` with --json, else ``tables`` and ``lines``."""
        if self.as_json:
            print(json_text(data, indent=2))
            return
        for table in tables:
            wide = max(self.out.width, TABLE_WIDTH)  # a terminal wraps what it cannot show; cut, a number would be lost
            Console(highlight=False, soft_wrap=True, emoji=False, width=wide).print(table)
        for line in lines or []:
            self.out.print(escape(line))


def print_error(error: SpadeError, as_json: bool = False) -> None:
    """Print a failure on stderr: the line, the problems, the hint."""
    if as_json:
        report = {"error": error.message, "problems": list(error.problems), "hint": error.hint}
        print(json_text(report), file=sys.stderr)
        return
    err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
    err.print(f"[bold red]error:[/bold red] {escape(error.message)}")
    for problem in error.problems:
        err.print(f"  - {escape(problem)}")
    if error.hint:
        err.print(f"[cyan]hint:[/cyan] {escape(error.hint)}")
