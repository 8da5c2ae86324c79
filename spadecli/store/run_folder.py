"""The folder of a training run, and the choice of the run to resume.

``run.json`` (resolved recipe, length, finished or not), ``state.pt`` (everything needed to resume),
``weights.safetensors`` (the latest EMA weights), ``best.safetensors`` (the EMA weights of the lowest validation
distance), ``stats.jsonl`` (one row per log interval), ``validation.jsonl`` (one per validation), ``samples.jsonl`` (one
per sample sheet), ``losses.png``, ``samples/``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ..core.errors import UserError
from ..core.json_text import json_text
from ..core.recipe import Recipe
from ..core.schema import describe_errors
from .atomic import lock_file, remove_parts, write_text


class Init(BaseModel):
    """The weights that a run started from (``--init``)."""

    model_config = ConfigDict(frozen=True)

    file: str
    sha256: str


class RunRecord(BaseModel):
    """The contents of run.json.

    recipe: as it was given. precision: what was taken for ``train.precision = "auto"``; None for another.
    origin: the recipe file. fit_minutes: the time ``steps`` was fitted to, if any.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal["spade-run"] = "spade-run"
    created_by: str
    recipe: Recipe
    origin: str
    data_sha256: str
    init: Init | None
    fit_minutes: float | None
    steps: int
    precision: Literal["fp32", "bf16"] | None = None
    finished: bool = False

    @property
    def trained_recipe(self) -> Recipe:
        """The recipe with the precision that the run trains in."""
        return self.recipe.with_precision(self.precision)


class RunFolder:
    """Paths and small files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state_path = path / "state.pt"
        self.weights_path = path / "weights.safetensors"
        self.best_path = path / "best.safetensors"
        self.stats_path = path / "stats.jsonl"
        self.validation_path = path / "validation.jsonl"
        self.sheets_path = path / "samples.jsonl"
        self.losses_path = path / "losses.png"
        self.samples_dir = path / "samples"
        self._run_path = path / "run.json"

    @property
    def exists(self) -> bool:
        """Whether a run was started in this folder."""
        return self._run_path.is_file()

    def read(self) -> RunRecord:
        """Read run.json. Raises UserError if it is damaged."""
        hint = f"remove {self.path} to start over"
        try:
            tree = json.loads(self._run_path.read_text("utf-8"))
            return RunRecord.model_validate(tree)
        except ValidationError as e:
            raise UserError(f"{self._run_path}: damaged", problems=describe_errors(e, RunRecord), hint=hint) from e
        except (OSError, ValueError) as e:
            raise UserError(f"{self._run_path}: damaged ({e})", hint=hint) from e

    def write(self, record: RunRecord) -> None:
        """Replace run.json."""
        write_text(self._run_path, record.model_dump_json(indent=1))

    @contextmanager
    def exclusive(self, patience: float = 0) -> Iterator[None]:
        """Lock the folder against other training processes, and remove part files of killed ones.

        Raises UserError if another process still trains here after ``patience`` seconds.
        """
        busy = UserError(
            f"{self.path}: another spade train is working on this run",
            hint="wait for it, or train under another name: --set name=NEW",
        )
        with lock_file(self.path / "lock", busy, patience):
            remove_parts(self.path)
            try:
                yield
            finally:
                if not self.exists:  # a failed start leaves nothing behind
                    (self.path / "lock").unlink()
                    with suppress(OSError):
                        self.path.rmdir()

    def stats(self) -> list[dict[str, Any]]:
        """Return the rows of stats.jsonl."""
        return read_rows(self.stats_path)

    def append_stats(self, row: Mapping[str, Any]) -> None:
        """Append one row to stats.jsonl."""
        append_row(self.stats_path, row)

    def drop_stats_after(self, step: int) -> None:
        """Drop the rows after ``step`` from all logs, as a resumed run repeats those steps."""
        for path in (self.stats_path, self.validation_path, self.sheets_path):
            if path.is_file():
                write_text(path, _lines(r for r in read_rows(path) if r["step"] <= step))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a .jsonl file, or none if it is missing; incomplete rows are skipped."""
    rows = []
    if path.is_file():
        for line in path.read_text("utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
    return rows


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append one row to a .jsonl file."""
    with open(path, "a", encoding="utf-8") as f:
        f.write(json_text(row) + "\n")


def newest_unfinished(runs_dir: Path, warn: Callable[[str], None]) -> RunFolder | None:
    """Return the unfinished run that was trained last, if any; damaged ones are skipped with a warning."""
    open_runs = []
    for path in sorted(runs_dir.glob("*/run.json")):
        run = RunFolder(path.parent)
        try:
            if not run.read().finished:
                open_runs.append(run)
        except UserError as e:
            warn(f"{e.line}; skipped")

    def last_touched(run: RunFolder) -> float:
        return max(p.stat().st_mtime for p in (run.path / "run.json", run.state_path) if p.exists())

    return max(open_runs, key=last_touched, default=None)


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json_text(r) + "\n" for r in rows)
