"""Training in several processes: the same numbers, one voice, one end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_training import make_recipe, options
from together import succeed, together

from spadecli.cli.app import main
from spadecli.commands.train.command import train
from spadecli.core.errors import UserError
from spadecli.training.run import TrainingRun
from spadecli.training.step import Trainer

pytestmark = pytest.mark.dist

ROOT = Path(__file__).parents[2]
LONG = ("train.steps=20", "train.batch=4", "train.checkpoint_every=100", "train.sample_every=100")


def flat(tree, prefix: str = "") -> dict[str, torch.Tensor]:
    """Every tensor of a state by its path."""
    if torch.is_tensor(tree):
        return {prefix: tree.double()}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    return {name: t for key, value in items for name, t in flat(value, f"{prefix}/{key}").items()}


def weights_of(runs: Path) -> dict[str, torch.Tensor]:
    """Networks (u, v and running statistics too) and their averages, of a run's state."""
    state = torch.load(runs / "tiny" / "state.pt")["trainer"]
    return flat({"networks": state["networks"], "ema": state["ema"]["averages"]})


def rows_of(runs: Path) -> dict[str, float]:
    """Every number of a run's log but the times."""
    rows = [json.loads(line) for line in (runs / "tiny" / "stats.jsonl").read_text().splitlines()]
    return {f"{i} {k}": v for i, row in enumerate(rows) for k, v in row.items() if "second" not in k}


def largest_difference(a: Path, b: Path, counts=lambda name: True) -> float:
    first, second = weights_of(a), weights_of(b)
    assert first.keys() == second.keys()
    return max((first[n] - second[n]).abs().max().item() for n in first if counts(n))


def before_a_norm(name: str) -> bool:
    """Biases that a norm takes out again: their gradient is rounding alone, and Adam makes full steps of it."""
    return name.endswith("/bias") and "conv_" in name and "conv_img" not in name


@pytest.mark.parametrize(
    ("latent", "accumulate", "sizes", "steps"),
    [("encoder", 1, (2, 4), 20), ("encoder", 2, (2,), 8), ("map", 1, (2,), 8)],
)
def test_any_number_of_processes_trains_the_same(tmp_path, latent, accumulate, sizes, steps):
    # a first feature map of one pixel would leave batch norm constants, and their rounding decides signs
    recipe = make_recipe(tmp_path, latent, instances=True, pairs=9, scale=2)
    batch = 4 * accumulate
    overrides = (*LONG, f"train.batch={batch}", f"train.accumulate={accumulate}", "train.precision=fp64")
    overrides = (*overrides, f"train.steps={steps}")
    train(options(recipe, tmp_path / "1", *overrides))
    for size in sizes:
        succeed(size, tmp_path, train, options(recipe, tmp_path / str(size), *overrides))
        assert largest_difference(tmp_path / "1", tmp_path / str(size)) < 1e-8
        assert rows_of(tmp_path / str(size)) == pytest.approx(rows_of(tmp_path / "1"), rel=1e-5)


SEGMENTED = ("discriminator.kind=segmentation", "loss.feature_matching=0")


def test_classes_are_weighed_by_the_whole_batch(tmp_path):
    """Of all processes and micro-batches: photos of one class each would have a loss of their own by themselves."""
    recipe = make_recipe(tmp_path, pairs=9, scale=2)
    overrides = (*LONG, *SEGMENTED, "train.precision=fp64", "model.norm=instance", "train.steps=5")
    train(options(recipe, tmp_path / "whole", *overrides))
    train(options(recipe, tmp_path / "parts", *overrides, "train.accumulate=2"))
    succeed(2, tmp_path, train, options(recipe, tmp_path / "2", *overrides, "train.accumulate=2"))
    for other in ("parts", "2"):
        assert largest_difference(tmp_path / "whole", tmp_path / other) < 1e-8
        assert rows_of(tmp_path / other) == pytest.approx(rows_of(tmp_path / "whole"), rel=1e-5)


def parameter(name: str) -> bool:
    """Whether it is trained, and no bias before a norm."""
    others = ("weight_u", "weight_v", "running_mean", "running_var", "num_batches_tracked")
    return name.startswith("/networks") and not name.endswith(others) and not before_a_norm(name)


def test_float32_differs_by_rounding_alone(tmp_path):
    """No more than one process does whose operations run in another order."""
    recipe = make_recipe(tmp_path, instances=True, pairs=9, scale=2)
    overrides = (*LONG, "train.steps=2")
    train(options(recipe, tmp_path / "1", *overrides, "train.modulation=plain"))
    train(options(recipe, tmp_path / "fast", *overrides, "train.modulation=fast"))
    succeed(2, tmp_path, train, options(recipe, tmp_path / "2", *overrides, "train.modulation=plain"))
    found, rounding = (largest_difference(tmp_path / "1", tmp_path / other, parameter) for other in ("2", "fast"))
    assert 0 < found < 3 * rounding


def test_micro_batches_with_instance_norm_change_nothing(tmp_path):
    """Every loss is a mean, and spectral norm iterates once a step: only batch norm sees how a batch is cut."""
    recipe = make_recipe(tmp_path, pairs=9, scale=2)
    overrides = (*LONG, "train.precision=fp64", "model.norm=instance", "train.steps=5")
    train(options(recipe, tmp_path / "whole", *overrides))
    train(options(recipe, tmp_path / "parts", *overrides, "train.accumulate=4"))
    assert largest_difference(tmp_path / "whole", tmp_path / "parts") < 1e-8


def train_until(step: int, what) -> None:
    """Train, and die without a word in the step after ``step``."""
    whole, steps = Trainer.step, 0

    def counted(self, *args):
        nonlocal steps
        steps += 1
        if steps > step:
            os._exit(9)
        whole(self, *args)

    Trainer.step = counted
    train(what)


def test_a_killed_run_goes_on_with_another_number_of_processes(tmp_path):
    recipe = make_recipe(tmp_path, instances=True, pairs=9, scale=2)
    overrides = (*LONG, "train.precision=fp64", "train.checkpoint_every=5", "train.steps=10")
    train(options(recipe, tmp_path / "whole", *overrides))
    ended = together(2, tmp_path, train_until, 7, options(recipe, tmp_path / "parts", *overrides))
    assert {e.code for e in ended} == {9}
    assert torch.load(tmp_path / "parts" / "tiny" / "state.pt")["step"] == 5
    train(options(recipe, tmp_path / "parts", *overrides))
    assert largest_difference(tmp_path / "whole", tmp_path / "parts") < 1e-8
    assert rows_of(tmp_path / "whole") == pytest.approx(rows_of(tmp_path / "parts"), rel=1e-5)


def command(*words: str) -> None:
    sys.argv = ["spade", "train", *words, "--device", "cpu"]
    main()


def test_process_0_alone_speaks_and_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = str(make_recipe(tmp_path))
    ended = succeed(2, tmp_path, command, recipe, "--json")
    assert json.loads(ended[0].out)["finished"]
    assert "2 processes x 1" in ended[0].err
    assert (ended[1].out, ended[1].err) == ("", "")
    planned = succeed(2, tmp_path, command, recipe, "--dry-run")
    assert "2 (2 processes x 1)" in planned[0].out
    assert planned[1].out == ""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--set", "train.batch=none"), "train.batch"),
        (("--set", "train.batch=3"), "cannot be split over 2 processes"),
        (("--set", "data.packed=away.h5"), "away.h5: the packed data"),
        (("--no-such-option",), "No such option"),
    ],
)
def test_a_mistake_ends_all_processes_and_is_told_once(tmp_path, words, expected):
    recipe = make_recipe(tmp_path)
    ended = together(2, tmp_path, command, str(recipe), "--runs", str(tmp_path / "runs"), *words)
    assert [e.code for e in ended] == [2, 2]
    assert sum(e.err.count(expected) for e in ended) == 1, ended
    assert not (tmp_path / "runs").exists()


def at_port_0(recipe: str) -> None:
    os.environ["MASTER_PORT"] = "0"
    command(recipe)


def test_a_port_that_is_none_is_no_hang(tmp_path):
    ended = together(2, tmp_path, at_port_0, str(make_recipe(tmp_path)))
    assert [e.code for e in ended] == [2, 2]
    assert sum(e.err.count("torchrun --standalone") for e in ended) == 1


def own_data(recipe: str, runs: str, other: str) -> None:
    """Process 1 reads the packed file of another folder, as on another machine."""
    words = [recipe, "--runs", runs]
    os.chdir(other if os.environ["RANK"] == "1" else Path(recipe).parent)
    command(*words, "--set", "data.packed=tiny.h5")


def test_data_that_differ_or_are_missing_on_another_machine_are_named(tmp_path):
    recipe = make_recipe(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    ended = together(2, tmp_path, own_data, str(recipe), str(tmp_path / "runs"), str(other))
    assert [e.code for e in ended] == [2, 2]
    assert "process 1 on " in ended[0].err
    assert "are missing" in ended[0].err
    assert ended[1].err == ""
    make_recipe(other, pairs=6)
    ended = together(2, tmp_path, own_data, str(recipe), str(tmp_path / "runs"), str(other))
    assert [e.code for e in ended] == [2, 2]
    assert "tiny.h5: the content differs" in ended[0].err
    assert "process 1 on " in ended[0].err


def fail_to_save(what) -> None:
    def full(*args):
        raise UserError("state.pt: the disk is full")

    TrainingRun._save = full
    train(what)


def test_what_fails_in_process_0_ends_the_others_too(tmp_path):
    ended = together(2, tmp_path, fail_to_save, options(make_recipe(tmp_path), tmp_path / "runs"))
    assert [e.code for e in ended] == [1, 1]
    assert all("the disk is full" in e.err for e in ended)


def stop_one(what) -> None:
    """A SIGTERM that only process 1 gets."""
    step, steps = Trainer.step, 0

    def counted(self, *args):
        nonlocal steps
        steps += 1
        step(self, *args)
        if steps == 3 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)

    Trainer.step = counted
    with pytest.raises(KeyboardInterrupt):
        train(what)


def test_all_processes_stop_at_the_same_step_and_go_on(tmp_path):
    recipe = make_recipe(tmp_path)
    succeed(2, tmp_path, stop_one, options(recipe, tmp_path / "runs"))
    assert torch.load(tmp_path / "runs" / "tiny" / "state.pt")["step"] == 3
    succeed(2, tmp_path, train, options(recipe, tmp_path / "runs"))
    assert torch.load(tmp_path / "runs" / "tiny" / "state.pt")["step"] == 6


def test_fitted_time_and_deadlines_are_process_0_s(tmp_path):
    recipe = make_recipe(tmp_path)
    fitted = options(recipe, tmp_path / "runs", fit_minutes=0.005, max_minutes=0.0)
    succeed(2, tmp_path, train, fitted)
    record = json.loads((tmp_path / "runs" / "tiny" / "run.json").read_text())
    assert record["steps"] >= 1
    assert torch.load(tmp_path / "runs" / "tiny" / "state.pt")["step"] == 1


STUMBLE = """
import os, sys
from spadecli.cli.app import main
from spadecli.training.step import Trainer

step, steps = Trainer.step, 0

def stumble(self, *args):
    global steps
    steps += 1
    if steps == 4 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        {how}
    step(self, *args)

if __name__ == "__main__":
    Trainer.step = stumble
    main()
"""


def torchrun(folder: Path, how: str, *flags: str, steps: int = 8) -> subprocess.Popen:
    (folder / "stumble.py").write_text(STUMBLE.format(how=how))
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", *flags]
    words += ["stumble.py", "train", str(make_recipe(folder)), "--device", "cpu", "--set", f"train.steps={steps}"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_torchrun_starts_a_killed_run_anew_and_it_goes_on(tmp_path):
    process = torchrun(tmp_path, "os.kill(os.getpid(), 9)", "--max-restarts", "1")
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "resuming at step 2 of 8" in err
    assert "finished: step 8 of 8" in out


def test_a_worker_that_fails_ends_the_run_with_its_message(tmp_path):
    started = time.monotonic()
    process = torchrun(tmp_path, "raise ValueError('the cat walked over the keyboard')")
    _, err = process.communicate(timeout=200)
    assert process.returncode != 0
    assert time.monotonic() - started < 100
    report = err[err.rindex("Root Cause") :]
    assert "rank      : 1" in report
    assert "ValueError: the cat walked over the keyboard" in report
    assert (tmp_path / "runs" / "tiny" / "state.pt").is_file()


def test_ctrl_c_on_torchrun_saves_once(tmp_path):
    process = torchrun(tmp_path, "pass", steps=2000)
    state = tmp_path / "runs" / "tiny" / "stats.jsonl"
    while not state.exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=200)
    assert err.count("everything is saved, spade train resumes") == 1, err
