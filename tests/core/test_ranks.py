"""What torchrun's environment says, and how a batch is split."""

import json

import pytest

from spadecli.core.errors import UserError
from spadecli.core.ranks import Ranks, check_split, write_error_file

VARIABLES = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}


def test_the_environment_of_torchrun_is_read():
    more = {"LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_RESTART_COUNT": "1"}
    assert Ranks.from_environment({**VARIABLES, **more}) == Ranks(3, 4, 1, 2, launched=True, restarts=1)
    assert Ranks.from_environment({"WORLD_SIZE": "4", "RANK": "3"}) == Ranks()
    with pytest.raises(UserError, match="RANK=three"):
        Ranks.from_environment({**VARIABLES, "RANK": "three"})


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_micro_batch_holds_the_same_samples_for_any_number_of_processes(size, accumulate):
    items = list(range(16))
    shares = [Ranks(rank, size).share(items, accumulate) for rank in range(size)]
    part = 16 // (size * accumulate)
    for micro in range(accumulate):
        pieces = [share[micro * part : (micro + 1) * part] for share in shares]
        assert [i for piece in pieces for i in piece] == items[
            micro * 16 // accumulate : (micro + 1) * 16 // accumulate
        ]


def test_a_batch_without_equal_parts_is_refused_with_numbers():
    check_split(32, 2, 8)
    with pytest.raises(UserError) as e:
        check_split(10, 2, 4)
    assert "10" in e.value.message
    assert "4 processes x 2 micro-batches" in e.value.message
    assert e.value.hint == "--set train.batch=8 or --set train.batch=16, or start 1 process"
    with pytest.raises(UserError, match="multiple of 3") as e:
        check_split(2, 1, 3)
    assert e.value.hint == "--set train.batch=3, or start 2 processes"


def test_torchrun_gets_the_message(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    write_error_file("what went wrong")
    write_error_file("what followed from it")
    message = json.loads((tmp_path / "error.json").read_text())["message"]
    assert message["message"] == "what went wrong"
    assert message["extraInfo"]["timestamp"].isdigit()
