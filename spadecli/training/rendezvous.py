"""How the processes of a run find each other, also after torchrun has started them anew."""

from __future__ import annotations

import os
import time
import uuid
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous as torch_rendezvous

from ..core.errors import UserError
from ..core.ranks import Ranks

PAUSE = 0.02  # seconds between two looks at who has arrived


def rendezvous(ranks: Ranks, timeout: timedelta) -> dist.Store:  # type: ignore[name-defined]
    """A store of the processes that are alive now, with nothing of earlier ones in it.

    torchrun keeps one store for all its restarts, and the keys that killed processes left there send new ones to
    addresses where nobody listens (pytorch issue 135712). Restarts cannot be told apart by their count, which each
    machine keeps for itself. So process 0 names the round, and answers each of the others under a key that it has
    just made up. Raises UserError where torchrun was told a port that is none.
    """
    if os.environ.get("MASTER_PORT") == "0":
        error = UserError(
            "environment variable MASTER_PORT=0: the processes cannot find each other there",
            hint="torchrun --standalone picks a free port of this machine; --master-port wants a real one",
        )
        error.common = True
        raise error
    store, _, _ = next(torch_rendezvous("env://", ranks.rank, ranks.size, timeout=timeout))
    if ranks.is_main:
        round_ = uuid.uuid4().hex
        _receive(store, round_, ranks.size, time.monotonic() + timeout.total_seconds())
    else:
        question = uuid.uuid4().hex
        store.set(f"asks/{ranks.rank}", question)
        round_ = store.get(f"answer/{question}").decode()
        store.set(f"heard/{round_}/{ranks.rank}", "")
    return dist.PrefixStore(round_, store)  # type: ignore[attr-defined]


def _receive(store: dist.Store, round_: str, size: int, deadline: float) -> None:  # type: ignore[name-defined]
    """Answer every process that asks, dead ones' questions too, until all have heard. Raises TimeoutError."""
    missing = set(range(1, size))
    while missing:
        for rank in sorted(missing):
            if store.check([f"asks/{rank}"]):
                store.set(f"answer/{store.get(f'asks/{rank}').decode()}", round_)
            if store.check([f"heard/{round_}/{rank}"]):
                missing.discard(rank)
        if time.monotonic() > deadline:
            raise TimeoutError(f"timed out waiting for processes {', '.join(map(str, sorted(missing)))}")
        time.sleep(PAUSE)
