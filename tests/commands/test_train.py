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
from conftest import shared
from safetensors.torch import load_file

from spadecli.commands.train import TrainOptions, train
from spadecli.commands.train_loop import lr_scale
from spadecli.core.errors import BackendUnavailable, UserError
from spadecli.core.labelspace import LabelSpace
from spadecli.core.recipe import find_recipe, load_recipe
from spadecli.data.dataset import StepSampler, TrainingSet
from spadecli.data.packed import create_packed
from spadecli.model.trainer import Trainer
from spadecli.model.weights import read_card
from spadecli.store.run_folder import RunFolder

RECIPE = """
name = "tiny"
[data]
packed = "{packed}"
load_size = [36, 40]
holdout = ["p3"]
[labels]
name = "tiny"
classes = ["wall", "window", "door"]
instances = {instances}
[model]
size = [32, 32]
ngf = 2
z_dim = 4
hidden = 4
latent = "{latent}"
[discriminator]
ndf = 2
[loss]
perceptual_network = "none"
[train]
batch = 2
steps = 6
num_workers = 0
log_every = 2
sample_every = 3
checkpoint_every = 2
"""


def make_recipe(folder: Path, latent: str = "encoder", instances: bool = False, pairs: int = 5) -> Path:
    """A recipe and its packed data: random pairs p0, p1, ..."""
    labels = LabelSpace(name="tiny", classes=("wall", "window", "door"), instances=instances)
    rng = np.random.default_rng(1)
    config = {"labels": labels.model_dump(mode="json"), "size": [36, 40]}
    with create_packed(folder / "tiny.h5", pairs, instances, config, "source") as writer:
        for i in range(pairs):
            ids = rng.integers(0, 9, (36, 40), np.uint32) if instances else None
            codes = rng.integers(0, 3, (36, 40), np.uint8)
            writer.add(f"p{i}", (codes, ids, rng.integers(0, 256, (36, 40, 3), np.uint8)))
        writer.finish({})
    path = folder / "tiny.toml"
    path.write_text(RECIPE.format(packed=folder / "tiny.h5", latent=latent, instances=str(instances).lower()))
    return path


def options(recipe: Path, runs: Path, *overrides: str, **more) -> TrainOptions:
    return TrainOptions(recipe=str(recipe), runs_dir=runs, device="cpu", overrides=overrides, **more)


def assert_same_weights(a: Path, b: Path) -> None:
    first, second = load_file(a), load_file(b)
    assert first.keys() == second.keys()
    different = [n for n in first if not torch.equal(first[n], second[n])]
    assert not different


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


def test_an_interrupted_run_ends_bit_equal(tmp_path):
    recipe = make_recipe(tmp_path)
    whole = train(options(recipe, tmp_path / "whole"))
    for minutes in (0.0, 0.0, None):  # a deadline that has passed: one step each, then the rest
        part = train(options(recipe, tmp_path / "parts", max_minutes=minutes))
    assert part.step == part.steps == 6
    assert_same_weights(whole.weights, part.weights)


def test_the_number_of_workers_changes_nothing(tmp_path):
    recipe = make_recipe(tmp_path)
    none = train(options(recipe, tmp_path / "none"))
    two = train(options(recipe, tmp_path / "two", "train.num_workers=2"))
    assert_same_weights(none.weights, two.weights)


def test_ctrl_c_saves_and_exits_130_and_the_bare_command_goes_on(tmp_path):
    recipe = make_recipe(tmp_path)
    overrides = ("train.steps=150", "train.checkpoint_every=25", "train.sample_every=1000")
    whole = train(options(recipe, tmp_path / "whole", *overrides))
    command = [sys.executable, "-m", "spadecli", "train"]
    first = [*command, str(recipe), "--device", "cpu", *(word for o in overrides for word in ("--set", o))]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(first, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
    state = tmp_path / "runs" / "tiny" / "state.pt"
    while not state.exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "goes on" in stderr
    second = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    assert "finished: step 150 of 150" in second.stdout
    assert_same_weights(whole.weights, tmp_path / "runs" / "tiny" / "weights.safetensors")


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


def test_another_recipe_in_the_run_folder_is_named(tmp_path):
    recipe = make_recipe(tmp_path)
    train(options(recipe, tmp_path / "runs"))
    with pytest.raises(UserError) as e:
        train(options(recipe, tmp_path / "runs", "train.batch=1", "model.ngf=3"))
    assert set(e.value.problems) == {"train.batch: 2 -> 1", "model.ngf: 2 -> 3"}


def test_missing_data_name_the_folders_and_the_pack_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as e:
        train(TrainOptions(runs_dir=tmp_path / "runs", device="cpu"))
    assert "data/facades/photos" in "".join(e.value.problems)
    assert "spade pack --recipe facades" in e.value.hint
    assert not (tmp_path / "runs").exists()


def test_bare_train_prefers_the_folder_s_recipe(tmp_path, monkeypatch):
    make_recipe(tmp_path).rename(tmp_path / "recipe.toml")
    monkeypatch.chdir(tmp_path)
    assert train(TrainOptions(device="cpu")).run_dir == Path("runs/tiny")


def test_data_that_do_not_fit_are_all_named(tmp_path):
    recipe = make_recipe(tmp_path)
    with pytest.raises(UserError) as e:
        train(
            options(recipe, tmp_path / "runs", "data.load_size=[40,40]", 'data.holdout=["p9"]', "labels.instances=true")
        )
    text = "\n".join(e.value.problems)
    assert "[36, 40]" in text
    assert "p9" in text
    assert "instance" in text


def test_changed_data_are_noticed(tmp_path):
    recipe = make_recipe(tmp_path)
    train(options(recipe, tmp_path / "runs", max_minutes=0.0))
    make_recipe(tmp_path, pairs=6)
    with pytest.raises(UserError) as e:
        train(options(recipe, tmp_path / "runs"))
    assert e.value.problems == ("the packed data have changed",)


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
    assert trainer.take_terms(1)["skipped"] == 1


def test_fit_minutes_fixes_the_steps_once(tmp_path):
    recipe = make_recipe(tmp_path)
    result = train(options(recipe, tmp_path / "runs", fit_minutes=0.01, max_minutes=0.0))
    assert 1 <= result.steps < 600
    again = train(options(recipe, tmp_path / "runs"))
    assert again.steps == result.steps
    assert again.finished


def test_init_starts_from_the_weights_own_function(tmp_path):
    first = train(options(make_recipe(tmp_path), tmp_path / "runs"))
    again = train(
        options(make_recipe(tmp_path), tmp_path / "more", "train.lr_g=1e-30", "train.steps=1", init=first.weights)
    )
    old, new = load_file(first.weights), load_file(again.weights)
    for name, value in old.items():
        if "running_" not in name:
            # an average of normalized weights has a sigma a little below 1; training sets it to 1 again
            scale = (new[name].norm() / value.norm().clamp(min=1e-12)).item() if value.norm() > 0 else 1.0
            assert 0.9 < scale < 1.1
            torch.testing.assert_close(new[name], value * scale, atol=1e-5, rtol=1e-3)
    assert "sha256" in read_card(again.weights).parent


def test_init_of_another_size_is_taken_and_of_another_width_refused(tmp_path):
    first = train(options(make_recipe(tmp_path), tmp_path / "runs"))
    small = ("data.load_size=[36,40]", "model.size=[32,32]", "train.steps=1")
    assert train(options(make_recipe(tmp_path), tmp_path / "a", *small, init=first.weights)).finished
    with pytest.raises(UserError) as e:
        train(options(make_recipe(tmp_path), tmp_path / "b", "model.ngf=4", init=first.weights))
    assert e.value.problems == ("ngf: 2 -> 4",)


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
    with RunFolder(tmp_path / "runs" / "tiny").alone(), pytest.raises(UserError, match="another spade train"):
        train(options(recipe, tmp_path / "runs"))
    assert not left.exists()


@pytest.mark.parametrize("text", ["", "[]", '{"recipe": {}}', '{"format": "spade-run"'])
def test_damaged_runs_are_passed_over_or_named(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "other").mkdir(parents=True)
    (tmp_path / "runs" / "other" / "run.json").write_text(text)
    make_recipe(tmp_path).rename(tmp_path / "recipe.toml")
    with pytest.warns(UserWarning, match=r"runs/other/run\.json: damaged"):
        assert train(TrainOptions(device="cpu")).finished
    (tmp_path / "runs" / "tiny" / "run.json").write_text(text)
    with pytest.raises(UserError, match=r"run\.json: damaged"):
        train(TrainOptions(recipe="recipe.toml", device="cpu"))


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


def test_the_pack_line_names_the_recipe_s_own_file(tmp_path, monkeypatch):
    make_recipe(tmp_path).rename(tmp_path / "recipe.toml")
    (tmp_path / "tiny.h5").unlink()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as e:
        train(TrainOptions(device="cpu"))
    assert "--recipe recipe.toml" in e.value.hint


def test_mistakes_of_a_recipe_come_all_at_once(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text("""
[data]
packed = "a.h5"
[labels]
name = "l"
classes = ["a", "a", { name = "c", value = 0, color = [300, 0, 0] }, 5]
unknown = "zz"
[train]
batch = 0
stepz = 3
""")
    with pytest.raises(UserError) as e:
        train(options(path, tmp_path / "runs", "train.lr_g=inf", "model=3", "nonsense"))
    text = "\n".join(e.value.problems)
    for words in (
        "nonsense: expected key=value",
        "classes.2.color: colour (300, 0, 0)",
        "classes.3: expected a table",
        "class name 'a' is used twice",
        "file values [0] belong to two classes",
        "unknown = 'zz'",
        "model: expected a table",
        "train.batch: Input should be greater than or equal to 1 (found 0)",
        "train.lr_g: Input should be a finite number",
        "train.stepz: unknown key (did you mean 'steps'?)",
        "either steps or epochs",
    ):
        assert words in text


def test_a_run_begun_before_a_field_existed_goes_on(tmp_path):
    recipe = make_recipe(tmp_path)
    first = train(options(recipe, tmp_path / "runs", "train.steps=1"))
    file = first.run_dir / "run.json"
    record = json.loads(file.read_text())
    del record["recipe"]["data"]["scenes"]
    file.write_text(json.dumps(record))
    assert train(options(recipe, tmp_path / "runs", "train.steps=1")).finished


def test_a_missing_device_is_named(tmp_path):
    with pytest.raises(BackendUnavailable, match="cuda:7"):
        train(TrainOptions(recipe=str(make_recipe(tmp_path)), runs_dir=tmp_path, device="cuda:7"))


def test_learning_rate_falls_linearly_from_decay_from():
    assert [lr_scale(p, 0.5) for p in (0, 0.5, 0.75, 1)] == [1, 1, 0.5, 0]
    assert lr_scale(1.0, 1.0) == 1


def test_every_epoch_has_every_sample_once_and_any_step_can_be_resumed_at():
    sampler = StepSampler([2, 3, 5, 7, 11], batch=3, seed=1, first_step=0, steps=5)
    keys = [key for step in sampler for key in step]
    for epoch in range(3):
        assert sorted(i for e, i in keys if e == epoch) == [2, 3, 5, 7, 11]
    assert list(StepSampler([2, 3, 5, 7, 11], 3, 1, 3, 5)) == list(sampler)[3:]
    assert list(StepSampler([2, 3, 5, 7, 11], 3, 2, 0, 5)) != list(sampler)


def test_crop_and_flip_move_mask_photo_and_edges_together(tmp_path):
    path = make_recipe(tmp_path, instances=True)
    labels = LabelSpace(name="tiny", classes=("wall", "window", "door"), instances=True)
    ramp = (np.arange(36)[:, None] * 6 + np.arange(40)[None, :]).astype(np.uint8)
    photo = np.stack([ramp] * 3, -1)
    with create_packed(
        tmp_path / "tiny.h5", 1, True, {"labels": labels.model_dump(mode="json"), "size": [36, 40]}, ""
    ) as w:
        w.add("p", (ramp % 3, (ramp // 16).astype(np.uint32), photo))
        w.finish({})
    recipe = load_recipe(path, ["data.holdout=[]"]).recipe
    dataset = TrainingSet(tmp_path / "tiny.h5", recipe)
    flips = set()
    for epoch in range(20):
        item = dataset[(epoch, 0)]
        values = item["photo"][0].numpy()
        assert np.array_equal(item["channels"].numpy(), values % 3)
        ids = values.astype(int) // 16
        expected = np.zeros_like(values)
        across, down = ids[:, 1:] != ids[:, :-1], ids[1:] != ids[:-1]
        expected[:, 1:] |= across
        expected[:, :-1] |= across
        expected[1:] |= down
        expected[:-1] |= down
        assert np.array_equal(item["edges"].numpy(), expected)
        flips.add(bool(values[0, 0] > values[0, 1]))
        again = dataset[(epoch, 0)]
        assert all(torch.equal(item[k], again[k]) for k in item)
    assert flips == {True, False}


def test_the_facades_recipe_never_trains_on_the_held_out_tenth():
    recipe = load_recipe(find_recipe("facades")).recipe
    names = sorted(p.stem for p in shared("data", "facades", "train", "photos").glob("*.jpg"))
    assert list(recipe.data.holdout) == names[9::10]


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
