"""What a run starts from: recipe, data, run folder, --init; and every way in which they do not fit."""

import json
import weakref
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import shared
from safetensors.torch import load_file
from tiny_training import make_recipe, options

from spadecli.commands.train.command import TrainOptions, train
from spadecli.core.errors import BackendUnavailable, UserError
from spadecli.core.recipe_files import find_recipe, load_recipe
from spadecli.data.dataset import TrainingSet
from spadecli.data.packed import create_packed
from spadecli.data.statistics import ClassCounter, code_counts
from spadecli.data.training_pairs import unseen_classes
from spadecli.weights.file import read_card


def test_another_recipe_in_the_run_folder_is_named(tmp_path):
    recipe = make_recipe(tmp_path)
    train(options(recipe, tmp_path / "runs"))
    with pytest.raises(UserError) as e:
        train(options(recipe, tmp_path / "runs", "train.batch=1", "model.ngf=3"))
    assert set(e.value.problems) == {"train.batch: 2 -> 1", "model.ngf: 2 -> 3"}


def test_classes_of_held_out_pairs_alone_are_never_seen(tmp_path):
    recipe = load_recipe(make_recipe(tmp_path)).recipe  # holds p3 out
    codes = {f"p{i}": np.full((36, 40), 2 if i == 3 else i % 2, np.uint8) for i in range(5)}
    counter = ClassCounter(recipe.labels)
    config = {"labels": recipe.labels.model_dump(mode="json"), "size": [36, 40]}
    with create_packed(tmp_path / "tiny.h5", 5, False, config, "source") as writer:
        for name, mask in codes.items():
            writer.add(name, (mask, None, np.zeros((36, 40, 3), np.uint8)))
            counter.add(code_counts(mask))
        writer.finish({"classes": [asdict(c) for c in counter.result()]})
    dataset = TrainingSet(tmp_path / "tiny.h5", recipe)
    assert unseen_classes(dataset, [0, 1, 2, 4]) == ["door"]
    assert unseen_classes(dataset, range(5)) == []


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
    assert e.value.problems == ("model.ngf: 2 -> 4",)


def test_init_adds_a_grid_to_the_encoder_and_takes_none_away(tmp_path):
    first = train(options(make_recipe(tmp_path), tmp_path / "runs"))
    grid = ("model.encoder_grid=2", "train.steps=1")
    again = train(options(make_recipe(tmp_path), tmp_path / "a", *grid, init=first.weights))
    assert read_card(again.weights).architecture.encoder_grid == 2
    with pytest.raises(UserError) as e:
        train(options(make_recipe(tmp_path), tmp_path / "b", "model.encoder_grid=0", init=again.weights))
    assert e.value.problems == ("model.encoder_grid: 2 -> 0",)


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
        "train.batch: expected at least 1 (found 0)",
        "train.lr_g: expected a finite number",
        "train.stepz: unknown key (did you mean 'train.steps'?)",
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


def test_the_facades_recipe_never_trains_on_the_held_out_tenth():
    recipe = load_recipe(find_recipe("facades")).recipe
    names = sorted(p.stem for p in shared("data", "facades", "train", "photos").glob("*.jpg"))
    assert list(recipe.data.holdout) == names[9::10]


def test_a_run_folder_names_the_run_to_go_on_with(tmp_path):
    recipe = make_recipe(tmp_path)
    stopped = train(options(recipe, tmp_path / "runs", "train.steps=4", max_minutes=0.0))
    again = train(TrainOptions(recipe=str(stopped.run_dir), device="cpu"))
    assert again.finished
    assert (again.run_dir, again.steps) == (stopped.run_dir, 4)


def test_a_failed_start_leaves_nothing_behind(tmp_path):
    recipe = make_recipe(tmp_path)
    broken = ("loss.perceptual_network=squeezenet", f"loss.perceptual_weights={tmp_path / 'missing.pth'}")
    with pytest.raises(UserError, match=r"missing\.pth"):
        train(options(recipe, tmp_path / "runs", *broken))
    assert not (tmp_path / "runs" / "tiny").exists()


def test_contradictions_between_sections_come_with_the_other_mistakes(tmp_path):
    recipe = make_recipe(tmp_path)
    with pytest.raises(UserError) as e:
        train(options(recipe, tmp_path / "runs", "model.size=[100,32]", "data.load_size=[10,40]", "train.batch=0"))
    text = "\n".join(e.value.problems)
    for words in (
        "size 100x32: height and width must be multiples of 32",
        "data.load_size [10, 40] is smaller",
        "batch",
    ):
        assert words in text


def test_missing_data_name_every_folder_of_a_published_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as e:
        train(TrainOptions(recipe="cityscapes", device="cpu"))
    text = "\n".join(e.value.problems)
    for words in ("leftImg8bit", "_gtFine_labelIds", "_gtFine_instanceIds"):
        assert words in text


def test_a_fetch_says_nothing_on_stdout(tmp_path, monkeypatch, capsys):
    def fetch(*args, **kwargs):
        print("Downloading")
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    with pytest.raises(UserError, match="could not be fetched"):
        train(options(make_recipe(tmp_path), tmp_path / "runs", "loss.perceptual_network=vgg19"))
    assert capsys.readouterr().out == ""


def test_a_share_of_prior_z_is_a_whole_number_of_images(tmp_path):
    recipe = make_recipe(tmp_path)  # batches of two
    with pytest.raises(UserError, match=r"prior_share = 0\.3: not a whole number of the 2 images") as e:
        train(options(recipe, tmp_path / "runs", "train.prior_share=0.3"))
    assert "shares that fit: 0.5;" in e.value.hint
    with pytest.raises(UserError, match="of the 1 images") as e:
        train(options(recipe, tmp_path / "runs", "train.prior_share=0.5", "train.accumulate=2"))
    assert "shares that fit: none" in e.value.hint
    assert not (tmp_path / "runs").exists()


def test_without_an_encoder_there_is_no_share_of_prior_z(tmp_path):
    with pytest.raises(UserError) as e:
        load_recipe(make_recipe(tmp_path, "noise"), ("train.prior_share=0.5",))
    assert "train.prior_share needs model.latent" in str(e.value) + "".join(e.value.problems)


def test_timing_holds_one_trainer_at_a_time(tmp_path, monkeypatch):
    from spadecli.commands.train import command

    make, made = command.new_trainer, []

    def watched(*args):
        assert not [trainer for ref in made if (trainer := ref())], "the timed trainer still takes its memory"
        trainer = make(*args)
        made.append(weakref.ref(trainer))
        return trainer

    monkeypatch.setattr(command, "new_trainer", watched)
    train(options(make_recipe(tmp_path), tmp_path / "runs", fit_minutes=0.005, max_minutes=0.0))
    assert len(made) == 2


def test_a_run_in_which_the_generator_never_learns_is_refused(tmp_path):
    recipe = make_recipe(tmp_path)
    with pytest.raises(UserError, match=r"train\.discriminator_first = 6: the run has 6 steps"):
        train(options(recipe, tmp_path / "runs", "train.discriminator_first=6"))
    assert not (tmp_path / "runs" / "tiny").exists()


def test_color_heads_need_whole_groups_of_images(tmp_path):
    recipe = make_recipe(tmp_path)
    projected = ("discriminator.kind=projected", "discriminator.color_heads=true", "loss.feature_matching=0")
    with pytest.raises(UserError, match="the colours of 4 images, and a process takes 2 at a time"):
        train(options(recipe, tmp_path / "runs", *projected))
    with pytest.raises(UserError, match="takes 2 at a time"):
        train(options(recipe, tmp_path / "runs", *projected, "train.batch=8", "train.accumulate=4"))


@pytest.mark.parametrize(
    ("latent", "setting", "needed"),
    [
        ("noise", "train.match_prior=4", 'model.latent = "encoder"'),
        ("encoder", "discriminator.color_heads=true", 'discriminator.kind = "projected"'),
        ("encoder", "discriminator.augment_adaptive=true", "discriminator.augment"),
    ],
)
def test_settings_without_effect_are_refused(tmp_path, latent, setting, needed):
    with pytest.raises(UserError) as e:
        load_recipe(make_recipe(tmp_path, latent), (setting,))
    assert f"{setting.partition('=')[0]} does nothing without {needed}" in e.value.problems[0]
