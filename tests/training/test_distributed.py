"""Processes that meet, agree and pass on state."""

import os

import pytest
import torch
import torch.distributed as dist
from together import succeed, together

from spadecli.core.errors import UserError
from spadecli.core.ranks import Ranks
from spadecli.training.distributed import Processes, join

pytestmark = pytest.mark.dist


def meet_and(die: bool) -> None:
    with join(Ranks.from_environment()) as processes:
        assert not processes.any(False)
        if die:
            os._exit(9)
        assert processes.any(processes.ranks.rank == 1)


def test_processes_started_anew_meet_although_the_store_is_old(tmp_path, monkeypatch):
    """As under torchrun, whose own store outlives the processes and what they wrote into it."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    for _ in range(3):
        assert {e.code for e in together(2, tmp_path, meet_and, True, port=store.port)} == {9}
    succeed(2, tmp_path, meet_and, False, port=store.port)


def pass_on() -> None:
    ranks = Ranks.from_environment()
    with join(ranks) as processes:
        tree = {"a": [torch.arange(3), 1.5], "b": ({"c": torch.ones(2, 2, dtype=torch.float64)}, None)}
        found = processes.broadcast_state(tree if ranks.is_main else None)
        assert torch.equal(found["a"][0], torch.arange(3))
        assert found["a"][1] == 1.5
        assert found["b"][0]["c"].dtype == torch.float64
        assert found["b"][1] is None
        assert processes.mean(torch.tensor([float(ranks.rank)])).item() == 0.5
        assert processes.on_main_broadcast(lambda: ranks.rank) == 0
        assert processes.on_main(lambda: 7) == (7 if ranks.is_main else None)
        with pytest.raises(UserError, match="wrong here") as e:
            processes.on_main_broadcast(fail, "wrong here")
        assert e.value.common
        with pytest.raises(UserError, match=r"process 1 on .*: wrong there"):
            processes.on_all(fail, "wrong there" if ranks.rank == 1 else "")


def fail(text: str) -> None:
    if text:
        raise UserError(text)


def test_what_process_0_has_or_decides_reaches_all(tmp_path):
    succeed(2, tmp_path, pass_on)


def test_a_process_alone_calls_plainly():
    alone = Processes()
    assert alone.on_main_broadcast(lambda: 3) == alone.on_all(lambda: 3) == alone.broadcast_state(3) == 3
    assert alone.any(True)
    with pytest.raises(UserError) as e:
        alone.on_main_broadcast(fail, "as it is")
    assert not e.value.common
