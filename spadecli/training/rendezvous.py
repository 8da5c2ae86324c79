"""How the processes of a run find each other, also after a restart by torchrun."""

from __future__ import annotations

import os
import time
import uuid
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous as torch_rendezvous

from ..core.errors import UserError
from ..core.ranks import Ranks

PAUSE = 0.02  # seconds between polls of the store


def rendezvous(ranks: Ranks, timeout: timedelta) -> dist.Store:  # type: ignore[name-defined]
    """Return a store shared by the processes that are alive now, without keys of earlier ones.

    torchrun keeps one store across restarts, and the keys left there by killed processes send new ones to addresses
    where nobody listens (pytorch issue 135712). The restart count cannot tell restarts apart, as each machine keeps its
    own. So process 0 picks a random name for the round and sends it to each of the others under a random key of theirs.
    Raises UserError if MASTER_PORT is 0.
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
    """Answer every process that asks, including dead ones, until all have confirmed. Raises TimeoutError."""
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
