"""Several processes that go on from a checkpoint are, each of them, where an uninterrupted run would be."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo  # steps import it, which takes a second: once here, not in every forked process
from tiny_training import make_recipe, options
from together import succeed, together
from torch import Tensor

from spadecli.commands.train.command import TrainOptions, train
from spadecli.core.ranks import Ranks
from spadecli.training.distributed import join
from spadecli.training.run import TrainingRun
from spadecli.training.step import Trainer

pytestmark = pytest.mark.dist

STEPS, STOP = 4, 2


def tensors(tree: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a tree with its path."""
    if torch.is_tensor(tree):
        yield path, tree
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    for key, value in items:
        yield from tensors(value, f"{path}/{key}")


def tensors_of_every_layout() -> dict[str, Tensor]:
    """Among them what no receiver can lay out alike: memory with gaps, and memory that stands for several values."""
    numbers = torch.arange(2 * 3 * 4 * 5, dtype=torch.float64).reshape(2, 3, 4, 5)
    return {
        "contiguous": numbers,
        "channels last": numbers.contiguous(memory_format=torch.channels_last),
        "1x1, channels last": numbers[:, :, :1, :1].contiguous(memory_format=torch.channels_last),
        "transposed": numbers[0, 0].T,
        "permuted": numbers.permute(2, 0, 3, 1),
        "a part of another": numbers.flatten()[7:31].view(4, 6).T,
        "0-dim": torch.tensor(7.5),
        "empty": torch.empty(3, 0, 2),
        "bf16": numbers.bfloat16().contiguous(memory_format=torch.channels_last),
        "int": torch.arange(12).reshape(3, 4).T,
        "bool": torch.tensor([[True, False, False], [False, True, True]]).T,
        "parameter": torch.nn.Parameter(numbers.float().mT),
        "expanded": torch.arange(3.0)[:, None].expand(3, 4),
        "with gaps": numbers[:, 1:, ::2].contiguous(memory_format=torch.channels_last)[..., 1:4],
        "overlapping": torch.arange(6.0).as_strided((4, 3), (1, 1)),
    }


def spread() -> None:
    ranks = Ranks.from_environment()
    expected = tensors_of_every_layout()
    tree = {"all": [expected, (expected["channels last"], None)]}
    with join(ranks) as processes:
        found = processes.broadcast_state(tree if ranks.is_main else None)
    assert torch.equal(found["all"][1][0], expected["channels last"])
    assert found["all"][0].keys() == expected.keys()
    for name, value in found["all"][0].items():
        assert value.dtype == expected[name].dtype, name
        assert torch.equal(value, expected[name]), name
        if name not in ("expanded", "with gaps", "overlapping"):
            assert value.stride() == expected[name].stride(), name
        assert ranks.is_main or not value.requires_grad


@pytest.mark.parametrize("size", [2, 3])
def test_tensors_of_every_layout_arrive_as_they_are(tmp_path, size):
    succeed(size, tmp_path, spread)


def train_and_tell(what: TrainOptions, states: Path) -> None:
    """Train, and write what this process has in the end: its state, and the layout of parameters and moments."""
    trainers: list[Trainer] = []
    run = TrainingRun.run

    def watched(self, *args):
        trainers.append(self.trainer)
        return run(self, *args)

    TrainingRun.run, TrainingRun._draw = watched, lambda *args: None  # no sheets
    train(what)
    (trainer,) = trainers
    layouts = [
        (p.stride(), *(optimizer.state[p][moment].stride() for moment in ("exp_avg", "exp_avg_sq")))
        for optimizer in (trainer.optimizer_g, trainer.optimizer_d)
        for group in optimizer.param_groups
        for p in group["params"]
    ]
    torch.save({"state": trainer.state_dict(), "layouts": layouts}, states / f"rank_{os.environ['RANK']}.pt")


def die_after(step: int, what: TrainOptions) -> None:
    """Train, and die without a word when ``step`` steps are made."""
    whole, steps = Trainer.step, 0

    def counted(self, *args):
        nonlocal steps
        if steps == step:
            os._exit(9)
        steps += 1
        whole(self, *args)

    Trainer.step = counted
    train(what)


def states_of(size: int, folder: Path, what: TrainOptions) -> list[dict[str, Any]]:
    folder.mkdir()
    succeed(size, folder, train_and_tell, what, folder)
    return [torch.load(folder / f"rank_{rank}.pt") for rank in range(size)]


def assert_same_state(found: Any, expected: Any, tolerance: float) -> None:
    """Values by their index, however they lie in memory."""
    first, second = dict(tensors(found)), dict(tensors(expected))
    assert first.keys() == second.keys()
    pairs = {name: (first[name].contiguous(), second[name].contiguous()) for name in first}
    assert [name for name, (a, b) in pairs.items() if not torch.allclose(a, b, tolerance, tolerance)] == []


# a sum of two is the same in either order; of four, gradients in the first step, whose buckets are others, may not be
@pytest.mark.parametrize(("size", "tolerance"), [(2, 0), (4, 1e-12)])
def test_a_resumed_run_is_the_uninterrupted_one_in_every_process(tmp_path, size, tolerance):
    recipe = make_recipe(tmp_path, instances=True, pairs=9, scale=2)
    overrides = (f"train.steps={STEPS}", f"train.checkpoint_every={STOP}", "train.batch=4", "train.precision=fp64")
    overrides = (*overrides, "train.sample_every=100", "train.beta1=0.5")
    whole = states_of(size, tmp_path / "whole", options(recipe, tmp_path / "whole", *overrides))
    parts = options(recipe, tmp_path / "parts", *overrides)
    assert {e.code for e in together(size, tmp_path, die_after, STOP + 1, parts)} == {9}
    assert torch.load(tmp_path / "parts" / "tiny" / "state.pt")["step"] == STOP
    resumed = states_of(size, tmp_path / "resumed", parts)
    for found, uninterrupted in zip(resumed, whole, strict=True):
        assert_same_state(found["state"], whole[0]["state"], tolerance)
        assert_same_state(uninterrupted["state"], whole[0]["state"], 0)
        for layouts in (found["layouts"], uninterrupted["layouts"]):
            assert [one for one in layouts if len(set(one)) > 1] == []
