"""``spade doctor``."""

from __future__ import annotations

from dataclasses import asdict

from rich.markup import escape
from rich.table import Table

from .ui import UI, AsJson, Quiet, Verbose


def doctor(quiet: Quiet = False, verbose: Verbose = 0, as_json: AsJson = False) -> None:
    """Say what this machine can run: versions, devices, optional packages, and how to get the rest.

    Example: spade doctor
    """
    from ..commands.doctor.command import doctor

    findings = doctor()
    table = Table(box=None, show_header=False)
    for f in findings:
        hint = f"\n[cyan]{escape(f.hint)}[/cyan]" if f.hint else ""
        table.add_row(f.subject, escape(f.found) + hint)
    UI(quiet, verbose, as_json).result({"findings": [asdict(f) for f in findings]}, tables=(table,))
