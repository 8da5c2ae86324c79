"""The folder of a training run: what is in it, and which run goes on.

``run.json`` (resolved recipe, length, finished or not), ``state.pt`` (all that resuming needs),
``weights.safetensors`` (EMA), ``stats.jsonl`` (one row per log interval), ``losses.png``, ``samples/``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from .atomic import write_text


class RunFolder:
    """Paths and small files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state_path = path / "state.pt"
        self.weights_path = path / "weights.safetensors"
        self.stats_path = path / "stats.jsonl"
        self.losses_path = path / "losses.png"
        self.samples_dir = path / "samples"
        self._run_path = path / "run.json"

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return self._run_path.is_file()

    def read(self) -> dict[str, Any]:
        """run.json. Raises UserError where it is damaged."""
        try:
            record: dict[str, Any] = json.loads(self._run_path.read_text("utf-8"))
        except (OSError, ValueError) as e:
            raise UserError(f"{self._run_path}: damaged ({e})", hint=f"remove {self.path} to start anew") from e
        return record

    def write(self, record: Mapping[str, Any]) -> None:
        """Replace run.json."""
        write_text(self._run_path, json.dumps(record, indent=1))

    def stats(self) -> list[dict[str, Any]]:
        """The rows of stats.jsonl; a torn last row is left out."""
        rows = []
        if self.stats_path.is_file():
            for line in self.stats_path.read_text("utf-8").splitlines():
                try:
                    rows.append(json.loads(line))
                except ValueError:
                    continue
        return rows

    def append_stats(self, row: Mapping[str, Any]) -> None:
        """Add one row to stats.jsonl."""
        with open(self.stats_path, "a", encoding="utf-8") as f:
            f.write(json.dumps(row) + "\n")

    def drop_stats_after(self, step: int) -> None:
        """Forget rows of steps that a resumed run does again."""
        rows = [r for r in self.stats() if r["step"] <= step]
        if self.stats_path.is_file():
            write_text(self.stats_path, _lines(rows))


def newest_unfinished(runs_dir: Path) -> RunFolder | None:
    """The run that was worked on last and has steps left, if any."""
    runs = [RunFolder(p.parent) for p in runs_dir.glob("*/run.json")]
    open_runs = [r for r in runs if not r.read().get("finished", False)]

    def last_touched(run: RunFolder) -> float:
        return max(p.stat().st_mtime for p in (run.path / "run.json", run.state_path) if p.exists())

    return max(open_runs, key=last_touched, default=None)


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(r) + "\n" for r in rows)
