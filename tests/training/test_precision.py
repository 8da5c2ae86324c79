"""``train.precision = "auto"``: what is taken, that a run keeps it, and that every process has the same."""

import json
import os

import pytest
import tiny_segmentation
import torch
import torch._dynamo  # steps import it, which takes a second: once here, not in every forked process
from fake_backend import Listener
from tiny_training import make_recipe, options
from together import succeed

from spadecli.commands.train.command import train
from spadecli.commands.train_segmenter.command import train_segmenter
from spadecli.compute import precision
from spadecli.core.recipe_files import load_recipe
from spadecli.store.run_folder import RunFolder
from spadecli.training.plan import plan_training
from spadecli.training.run import TrainingRun
from spadecli.training.step import Trainer
from spadecli.weights.file import read_card

CPU = torch.device("cpu")
AUTO = "train.precision=auto"


@pytest.fixture
def timings(monkeypatch):
    """Stand-in timings of the convolution; the list of what was timed."""
    timed = []

    def set_them(fp32: float, bf16: float) -> list[torch.dtype]:
        seconds = {torch.float32: fp32, torch.bfloat16: bf16}
        monkeypatch.setattr(precision, "seconds_of_convolution", lambda dtype: timed.append(dtype) or seconds[dtype])
        return timed

    return set_them


@pytest.mark.parametrize(
    ("fp32", "bf16", "line"),
    [
        (0.01, 0.087, "precision: fp32 (bf16 is 8.7 times slower on this CPU)"),
        (0.03, 0.02, "precision: bf16 (1.5 times faster than fp32 on this CPU)"),
        (0.02, 0.02, "precision: fp32 (bf16 is 1.0 times slower on this CPU)"),
    ],
)
def test_the_faster_one_is_taken(timings, fp32, bf16, line):
    timings(fp32, bf16)
    assert precision.choose_precision(CPU).line == line


@pytest.mark.parametrize(
    ("native", "line"), [(True, "precision: bf16 (Some GPU has it)"), (False, "precision: fp32 (Some GPU has no bf16)")]
)
def test_a_gpu_takes_bf16_where_it_is_not_emulated(monkeypatch, native, line):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    assert precision.choose_precision(torch.device("cuda")).line == line


def test_a_convolution_is_timed_in_either_type(monkeypatch):
    seen = []
    conv2d = torch.nn.functional.conv2d
    monkeypatch.setattr(precision.F, "conv2d", lambda *a, **k: seen.append(conv2d(*a, **k)) or seen[-1])
    assert all(0 < precision.seconds_of_convolution(dtype) < 10 for dtype in (torch.float32, torch.bfloat16))
    assert {y.dtype for y in seen} == {torch.float32, torch.bfloat16}


def test_a_run_says_and_records_what_it_takes_and_resumes_with_it(tmp_path, timings):
    recipe, told, short = make_recipe(tmp_path), Listener(), (AUTO, "train.steps=2")
    timed = timings(2, 1)
    stopped = train(options(recipe, tmp_path / "runs", *short, max_minutes=0.0), told)
    assert "precision: bf16 (2.0 times faster than fp32 on this CPU)" in told.notes
    record = json.loads((stopped.run_dir / "run.json").read_text())
    assert (record["recipe"]["train"]["precision"], record["precision"]) == ("auto", "bf16")
    timings(1, 2)  # another machine
    timed.clear()
    assert "precision: bf16 (as the run began)" in plan_training(options(recipe, tmp_path / "runs", *short)).notes
    result = train(options(recipe, tmp_path / "runs", *short))
    assert (result.finished, timed) == (True, [])
    card = read_card(result.weights)
    assert (card.recipe["train"]["precision"], card.training["precision"]) == ("auto", "bf16")


def test_it_trains_as_if_the_recipe_named_it(tmp_path, timings, monkeypatch):
    recipe, kinds = make_recipe(tmp_path), []
    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, *a: kinds.append(self._autocast()._enabled) or step(self, *a))
    for name, seconds in (("bf16", (2, 1)), ("fp32", (1, 2))):
        timings(*seconds)
        train(options(recipe, tmp_path / name, AUTO, "train.steps=1"))
    assert kinds == [True, False]


def test_a_recipe_that_names_its_precision_times_nothing(tmp_path, timings):
    timed = timings(2, 1)
    result = train(options(make_recipe(tmp_path), tmp_path / "runs", "train.steps=1"))
    assert timed == []
    assert RunFolder(result.run_dir).read().precision is None
    assert read_card(result.weights).training["precision"] == "fp32"


def test_a_plan_says_what_would_be_taken_and_counts_its_memory(tmp_path, timings):
    recipe = make_recipe(tmp_path)
    timings(1, 2)
    fp32 = plan_training(options(recipe, tmp_path / "runs", AUTO))
    timings(2, 1)
    bf16 = plan_training(options(recipe, tmp_path / "runs", AUTO))
    assert fp32.notes == ("precision: fp32 (bf16 is 2.0 times slower on this CPU)",)
    assert bf16.memory.activations < fp32.memory.activations


def test_a_trainer_refuses_a_precision_that_is_not_settled(tmp_path):
    recipe = load_recipe(make_recipe(tmp_path), (AUTO,)).recipe
    with pytest.raises(ValueError, match="settled first"):
        Trainer(recipe, CPU)


def train_on_machines_that_differ(what, folder) -> None:
    rank = os.environ["RANK"]
    precision.seconds_of_convolution = lambda dtype: 1 + ((dtype == torch.bfloat16) == (rank == "0"))
    run = TrainingRun.run

    def watched(self, *args):
        (folder / f"precision_{rank}").write_text(self.trainer.recipe.train.precision)
        return run(self, *args)

    TrainingRun.run = watched
    train(what)


@pytest.mark.dist
def test_the_main_process_decides_for_all(tmp_path):
    what = options(make_recipe(tmp_path), tmp_path / "runs", AUTO, "train.steps=1")
    succeed(2, tmp_path, train_on_machines_that_differ, what, tmp_path)
    assert [(tmp_path / f"precision_{rank}").read_text() for rank in range(2)] == ["fp32", "fp32"]


def test_a_segmenter_keeps_what_it_began_with(tmp_path, timings):
    told = Listener()
    what = tiny_segmentation.options(tiny_segmentation.make_recipe(tmp_path), steps=2, overrides=(AUTO,))
    timings(2, 1)
    assert train_segmenter(what, told).card.training["precision"] == "bf16"
    timed = timings(1, 2)
    timed.clear()
    assert train_segmenter(what, told).card.training["precision"] == "bf16"
    assert timed == []
    assert [note for note in told.notes if note.startswith("precision")] == [
        "precision: bf16 (2.0 times faster than fp32 on this CPU)",
        "precision: bf16 (as the run began)",
    ]
