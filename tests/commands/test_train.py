"""Training: what a run leaves behind, and that an interruption changes nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import assert_same_weights, make_recipe, options

from spadecli.commands.train.command import TrainOptions, train
from spadecli.core.errors import UserError
from spadecli.core.recipe_files import load_recipe
from spadecli.data.dataset import TrainingSet
from spadecli.store.run_folder import RunFolder
from spadecli.training.run import lr_scale
from spadecli.training.sheets import SampleSheet
from spadecli.training.step import Trainer
from spadecli.weights.file import read_card


@pytest.mark.parametrize("latent", ["map", "noise", "encoder"])
@pytest.mark.parametrize("instances", [False, True])
def test_a_run_leaves_weights_curves_and_sheets(tmp_path, latent, instances):
    result = train(options(make_recipe(tmp_path, latent, instances), tmp_path / "runs"))
    assert result.finished
    run = tmp_path / "runs" / "tiny"
    rows = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [2, 4, 6]
    assert all(np.isfinite(list(r.values())).all() for r in rows)
    assert (rows[-1]["kl"] > 0) == (latent == "encoder")
    assert {p.name for p in (run / "samples").iterdir()} == {"step_0000003.png", "step_0000006.png"}
    assert (run / "losses.png").read_bytes().startswith(b"\x89PNG")
    card = read_card(result.weights)
    assert card.training["samples"] == 4  # p3 is held out
    assert card.training["steps"] == 6
    assert card.recipe["train"]["batch"] == 2
    assert json.loads((run / "run.json").read_text())["finished"]
    assert result.weights.stat().st_mode & 0o044


def test_the_card_names_files_without_their_folders(tmp_path):
    keys = "loss.perceptual_weights", "discriminator.features_weights"
    settings = [f"{key}=/somewhere/private/{i}" for i, key in enumerate(keys)]
    result = train(options(make_recipe(tmp_path), tmp_path / "runs", *settings))
    card = read_card(result.weights).model_dump_json()
    assert "private" not in card
    assert str(tmp_path) not in card


def test_an_interrupted_run_ends_bit_equal(tmp_path):
    recipe = make_recipe(tmp_path)
    whole = train(options(recipe, tmp_path / "whole"))
    for minutes in (0.0, 0.0, None):  # a deadline that has passed: one step each, then the rest
        part = train(options(recipe, tmp_path / "parts", max_minutes=minutes))
    assert part.step == part.steps == 6
    assert_same_weights(whole.weights, part.weights)


def test_with_a_prior_of_all_codes_an_interrupted_run_ends_bit_equal(tmp_path):
    recipe = make_recipe(tmp_path)
    changes = "train.prior_share=0.5", "train.match_prior=3", "train.discriminator_first=1"
    whole = train(options(recipe, tmp_path / "whole", *changes))
    for minutes in (0.0, 0.0, None):
        part = train(options(recipe, tmp_path / "parts", *changes, max_minutes=minutes))
    assert_same_weights(whole.weights, part.weights)


def test_the_discriminator_may_begin_alone(tmp_path):
    folder = tmp_path / "runs"
    train(options(make_recipe(tmp_path), folder, "train.discriminator_first=3", "train.log_every=1"))
    rows = [json.loads(line) for line in (folder / "tiny" / "stats.jsonl").read_text().splitlines()]
    assert [row["g_norm"] > 0 for row in rows] == [False] * 3 + [True] * 3
    assert all(row["d_norm"] > 0 for row in rows)


def test_the_number_of_workers_changes_nothing(tmp_path):
    recipe = make_recipe(tmp_path)
    none = train(options(recipe, tmp_path / "none"))
    two = train(options(recipe, tmp_path / "two", "train.num_workers=2"))
    assert_same_weights(none.weights, two.weights)


@pytest.mark.slow
def test_ctrl_c_saves_and_exits_130_and_the_bare_command_goes_on(tmp_path):
    recipe = make_recipe(tmp_path)
    overrides = ("train.steps=60", "train.checkpoint_every=25", "train.sample_every=1000")
    whole = train(options(recipe, tmp_path / "whole", *overrides))
    command = [sys.executable, "-m", "spadecli", "train"]
    first = [*command, str(recipe), "--device", "cpu", *(word for o in overrides for word in ("--set", o))]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(first, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
    begun = tmp_path / "runs" / "tiny" / "run.json"
    while not begun.exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "resumes" in stderr
    second = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    assert "finished: step 60 of 60" in second.stdout
    assert_same_weights(whole.weights, tmp_path / "runs" / "tiny" / "weights.safetensors")


def test_a_signal_to_all_processes_saves_too(tmp_path):
    """As a cluster's scheduler sends it; the loader's workers are not to die of it before the last step is done."""
    recipe = make_recipe(tmp_path)
    settings = ("train.steps=5000", "train.num_workers=2", "train.log_every=1", "train.checkpoint_every=5000")
    command = [sys.executable, "-m", "spadecli", "train", str(recipe), "--device", "cpu"]
    command += [word for s in settings for word in ("--set", s)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    rows = tmp_path / "runs" / "tiny" / "stats.jsonl"
    while not rows.exists() and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "everything is saved" in stderr
    assert (tmp_path / "runs" / "tiny" / "state.pt").exists()


def test_a_kill_loses_at_most_one_checkpoint_interval(tmp_path, monkeypatch):
    recipe = make_recipe(tmp_path)
    whole = train(options(recipe, tmp_path / "whole"))
    steps = 0
    step = Trainer.step

    def die_in_the_fifth(self, *args):
        nonlocal steps
        steps += 1
        if steps == 5:
            raise RuntimeError("killed")
        step(self, *args)

    monkeypatch.setattr(Trainer, "step", die_in_the_fifth)
    with pytest.raises(RuntimeError, match="killed"):
        train(options(recipe, tmp_path / "killed"))
    monkeypatch.setattr(Trainer, "step", step)
    result = train(options(recipe, tmp_path / "killed"))
    assert_same_weights(whole.weights, result.weights)
    rows = (tmp_path / "killed" / "tiny" / "stats.jsonl").read_text().splitlines()
    assert [json.loads(r)["step"] for r in rows] == [2, 4, 6]


def test_a_finished_run_stays_as_it_is(tmp_path):
    recipe = make_recipe(tmp_path)
    first = train(options(recipe, tmp_path / "runs"))
    before = first.weights.stat().st_mtime_ns
    assert train(options(recipe, tmp_path / "runs")).finished
    assert first.weights.stat().st_mtime_ns == before


def test_numbers_that_are_not_finite_stop_the_run_before_anything_is_saved(tmp_path, monkeypatch):
    recipe = make_recipe(tmp_path)
    train(options(recipe, tmp_path / "runs", max_minutes=0.0))
    run = tmp_path / "runs" / "tiny"
    before = (run / "state.pt").read_bytes(), (run / "weights.safetensors").read_bytes()

    def diverge(self, *args):
        step(self, *args)
        self.generator.conv_img.bias.data.fill_(float("inf"))

    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", diverge)
    with pytest.raises(UserError, match="diverged"):
        train(options(recipe, tmp_path / "runs"))
    assert ((run / "state.pt").read_bytes(), (run / "weights.safetensors").read_bytes()) == before


def test_an_update_with_a_broken_gradient_is_left_out(tmp_path):
    recipe = load_recipe(make_recipe(tmp_path)).recipe
    trainer = Trainer(recipe, torch.device("cpu"))
    dataset = TrainingSet(tmp_path / "tiny.h5", recipe)
    batch = {k: torch.stack([dataset[(0, 0)][k], dataset[(0, 1)][k]]) for k in dataset[(0, 0)]}
    before = {n: p.clone() for n, p in trainer.discriminator.named_parameters()}
    handle = trainer.discriminator.scales[0].layers[4].weight.register_hook(lambda g: g * float("nan"))
    trainer.step(batch, 1.0)
    handle.remove()
    assert all(torch.equal(p, before[n]) for n, p in trainer.discriminator.named_parameters())
    assert trainer.pop_losses(1)["skipped"] == 1


def test_a_run_that_dies_before_its_first_checkpoint_keeps_its_init(tmp_path, monkeypatch):
    first = train(options(make_recipe(tmp_path), tmp_path / "runs"))
    overrides = ("train.lr_g=1e-30", "train.ema_decay=0")
    whole = train(options(make_recipe(tmp_path), tmp_path / "whole", *overrides, init=first.weights))
    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda *args: (_ for _ in ()).throw(RuntimeError("killed")))
    with pytest.raises(RuntimeError, match="killed"):
        train(options(make_recipe(tmp_path), tmp_path / "parts", *overrides, init=first.weights))
    monkeypatch.setattr(Trainer, "step", step)
    again = train(options(make_recipe(tmp_path), tmp_path / "parts", *overrides))
    assert_same_weights(whole.weights, again.weights)
    with pytest.raises(UserError) as e:
        train(options(make_recipe(tmp_path), tmp_path / "parts", *overrides, init=whole.weights, fit_minutes=1.0))
    assert [p.split(" ")[0] for p in e.value.problems] == ["--init", "--fit-minutes"]
    with pytest.raises(UserError, match="no such weights"):
        train(options(make_recipe(tmp_path), tmp_path / "more", init=tmp_path / "missing.safetensors"))
    assert not (tmp_path / "more").exists()


def test_two_processes_never_share_a_run(tmp_path):
    recipe = make_recipe(tmp_path)
    train(options(recipe, tmp_path / "runs", max_minutes=0.0))
    left = tmp_path / "runs" / "tiny" / "state.pt.12345.part"
    left.touch()
    # the lock belongs to an open file: a second opening in this process is refused like another process
    with RunFolder(tmp_path / "runs" / "tiny").exclusive(), pytest.raises(UserError, match="another spade train"):
        train(options(recipe, tmp_path / "runs"))
    assert not left.exists()


@pytest.mark.parametrize("content", [[1], {"trainer": 3}, b"junk"])
def test_a_damaged_state_is_named(tmp_path, content):
    recipe = make_recipe(tmp_path)
    train(options(recipe, tmp_path / "runs", max_minutes=0.0))
    state = tmp_path / "runs" / "tiny" / "state.pt"
    if isinstance(content, bytes):
        state.write_bytes(content)
    else:
        torch.save(content, state)
    with pytest.raises(UserError, match=r"state\.pt: damaged"):
        train(options(recipe, tmp_path / "runs"))


def test_learning_rate_falls_linearly_from_decay_from():
    assert [lr_scale(p, 0.5) for p in (0, 0.5, 0.75, 1)] == [1, 1, 0.5, 0]
    assert lr_scale(1.0, 1.0) == 1


@pytest.mark.slow
def test_bf16_on_cpu_trains(tmp_path):
    result = train(options(make_recipe(tmp_path), tmp_path / "runs", "train.precision=bf16", "train.steps=30"))
    rows = [json.loads(line) for line in (result.run_dir / "stats.jsonl").read_text().splitlines()]
    assert all(np.isfinite(list(r.values())).all() for r in rows)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_on_cuda_ends_resumes_and_follows_the_cpu(tmp_path, precision):
    recipe = make_recipe(tmp_path, instances=True)
    overrides = (f"train.precision={precision}", "train.steps=40", "train.log_every=10")
    runs = {}
    for device in ("cpu", "cuda"):
        folder = tmp_path / device
        train(TrainOptions(str(recipe), overrides, folder, device, max_minutes=0.0))
        runs[device] = train(TrainOptions(str(recipe), overrides, folder, device))
        assert runs[device].finished
    first = [json.loads((r.run_dir / "stats.jsonl").read_text().splitlines()[0]) for r in runs.values()]
    assert first[0]["feature_matching"] == pytest.approx(first[1]["feature_matching"], rel=0.05)


def test_tensorboard_gets_every_term(tmp_path, monkeypatch):
    seen, step_of_the_last_row = [], 6

    class Board:
        def add_scalar(self, name, value, step):
            seen.append((name, step))

        def close(self):
            seen.append(("closed", step_of_the_last_row))

    monkeypatch.setattr("spadecli.commands.train.command.check_tensorboard", lambda: None)
    monkeypatch.setattr("spadecli.training.run._tensorboard", lambda folder: Board())
    train(options(make_recipe(tmp_path), tmp_path / "runs", tensorboard=True))
    assert {("g_hinge", 2), ("kl", 4), ("d_real", 6)} <= set(seen)
    assert seen[-1] == ("closed", 6)


def test_sheets_show_no_held_out_pair(tmp_path):
    recipe = load_recipe(make_recipe(tmp_path)).recipe
    dataset = TrainingSet(tmp_path / "tiny.h5", recipe)
    assert SampleSheet(recipe, dataset).names == ["p0", "p1", "p2", "p4"]


def test_rows_of_the_log_are_read_once_however_many_there_are(tmp_path, monkeypatch):
    read, stats = [], RunFolder.stats
    monkeypatch.setattr(RunFolder, "stats", lambda folder: read.append(folder) or stats(folder))
    result = train(options(make_recipe(tmp_path), tmp_path / "runs", "train.log_every=1"))
    monkeypatch.undo()
    assert len(RunFolder(result.run_dir).stats()) == 6
    assert len(read) == 1
