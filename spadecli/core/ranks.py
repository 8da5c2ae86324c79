"""Rank of this process among those of a run, from torchrun's environment variables; without importing torch."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Self, TypeVar

from .errors import UserError

T = TypeVar("T")

NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those that train together; a single process by default.

    rank: 0..size-1 over all machines; process 0 reports, decides and writes. local_rank, local_size: the same
    on this machine. launched: whether torchrun started this process; restarts: how often it has restarted it.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    launched: bool = False
    restarts: int = 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read torchrun's variables; a single process if any is missing, as in other kinds of jobs."""
        if any(name not in environment for name in NEEDED):
            return cls()

        def number(name: str, default: str = "") -> int:
            text = environment.get(name, default)
            try:
                return int(text)
            except ValueError as e:
                raise UserError(f"environment variable {name}={text}: expected a whole number") from e

        return cls(
            rank=number("RANK"),
            size=number("WORLD_SIZE"),
            local_rank=number("LOCAL_RANK"),
            local_size=number("LOCAL_WORLD_SIZE", "1"),
            launched="TORCHELASTIC_RUN_ID" in environment,
            restarts=number("TORCHELASTIC_RESTART_COUNT", "0"),
        )

    @property
    def is_main(self) -> bool:
        """Whether this is process 0."""
        return self.rank == 0

    @property
    def prints_shared_errors(self) -> bool:
        """Whether this process prints errors that every process meets before they have joined: one per machine."""
        return self.local_rank == 0

    def share(self, items: list[T], accumulate: int = 1) -> list[T]:
        """Return this process's share of a step's batch, micro-batch by micro-batch.

        The batch is cut into micro-batches first, and each of these is split over the processes, so that a
        micro-batch holds the same samples (and batch norm sees the same statistics) for any number of processes.
        """
        part = len(items) // (self.size * accumulate)
        firsts = [(micro * self.size + self.rank) * part for micro in range(accumulate)]
        return [item for first in firsts for item in items[first : first + part]]


def check_split(batch: int, accumulate: int, processes: int) -> None:
    """Raise UserError if a batch cannot be split equally over the processes and micro-batches."""
    pieces = processes * accumulate
    if batch % pieces == 0:
        return
    below, above = batch // pieces * pieces, (batch // pieces + 1) * pieces
    micro = f" x {accumulate} micro-batches" if accumulate > 1 else ""
    fitting = [n for n in range(processes, 0, -1) if batch % (n * accumulate) == 0]
    counts = f", or start {fitting[0]} process{'es' * (fitting[0] != 1)}" if fitting else ""
    batches = " or ".join(f"--set train.batch={n}" for n in (below, above) if n)
    raise UserError(
        f"train.batch = {batch} cannot be split over {processes} processes{micro}: it must be a multiple of {pieces}",
        hint=batches + counts,
    )


def write_error_file(text: str) -> None:
    """Write an error message where torchrun looks for it, so that its final report shows it."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        content = {"message": {"message": text, "extraInfo": {"timestamp": str(int(time.time()))}}}
        with suppress(OSError), open(path, "x", encoding="utf-8") as f:
            json.dump(content, f)
