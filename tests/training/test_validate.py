"""Validation: fixed pairs, a row, a sheet, best and last; recalibrated exports."""

import json

import numpy as np
import pytest
import torch
from extractors import Tiny, save
from PIL import Image
from safetensors.torch import load_file
from tiny_training import assert_same_weights, make_recipe, options

from spadecli.commands.train.command import train
from spadecli.core.errors import UserError
from spadecli.core.labelspace import LabelSpace
from spadecli.core.recipe_files import load_recipe
from spadecli.data.dataset import TrainingSet
from spadecli.metrics.extractors import Extractor
from spadecli.metrics.frechet import frechet_distance
from spadecli.store.run_folder import RunFolder, read_rows
from spadecli.training import validate as validating
from spadecli.training.plan import plan_training
from spadecli.training.sheets import plot_losses
from spadecli.training.validate import Validator, open_agreement
from spadecli.weights.file import read_card

WATCHED = ("validation.every=2", "validation.pairs=2")


@pytest.fixture
def extractor(tmp_path, monkeypatch):
    monkeypatch.setenv("SPADE_CACHE", str(tmp_path / "cache"))
    return f"validation.extractor={save(tmp_path / 'tiny_features.pt', Tiny())}"


@pytest.mark.parametrize(("latent", "instances"), [("map", True), ("noise", False), ("encoder", False)])
def test_a_watched_run_leaves_rows_sheets_best_and_last(tmp_path, extractor, latent, instances):
    recipe = make_recipe(tmp_path, latent, instances)
    result = train(options(recipe, tmp_path / "runs", *WATCHED, extractor))
    run = RunFolder(result.run_dir)
    rows = read_rows(run.validation_path)
    assert [r["step"] for r in rows] == [2, 4, 6]
    assert {(r["pairs"], r["measure"], r["mean_iou"]) for r in rows} == {(2, "Fréchet distance (tiny_features)", None)}
    best = min(rows, key=lambda r: r["distance"])
    assert read_card(run.best_path).training["steps"] == best["step"]
    assert result.best == run.best_path
    assert read_card(run.weights_path).training["steps"] == 6
    assert read_card(run.weights_path).training["samples"] == 2  # of five, one is held out and two validate
    for step in (2, 4, 6):
        assert (run.samples_dir / f"validation_{step:07d}.png").is_file()


def test_the_distance_is_that_of_the_exported_weights_renders(tmp_path, extractor):
    """By hand: the weights file through the backend, z by the seed rule, features, Fréchet distance."""
    import spadecli
    from spadecli.core.seeds import sample_seed, sample_z
    from spadecli.data.pixels import image_bytes

    recipe_path = make_recipe(tmp_path)
    result = train(options(recipe_path, tmp_path / "runs", *WATCHED, extractor, "train.seed=3"))
    recipe = load_recipe(recipe_path, (*WATCHED, extractor, "train.seed=3")).recipe
    dataset = TrainingSet(tmp_path / "tiny.h5", recipe)
    validator = Validator(recipe, dataset, RunFolder(tmp_path / "other"), torch.device("cpu"))
    assert set(validator.names) & {"p3"} == set()
    fakes, photos = [], []
    with spadecli.open_backend(result.weights, device="cpu") as backend:
        for index, name in zip(validator.indices, validator.names, strict=True):
            pair = dataset.centre(index)
            z = sample_z(sample_seed(3, name, 0), 4)[None]
            fakes.append(image_bytes(backend.run(pair.codes[None], None, z)[0]))
            photos.append(pair.photo)
    features = [Tiny()(torch.from_numpy(np.stack(x).transpose(0, 3, 1, 2))).numpy() for x in (fakes, photos)]
    (last,) = (r for r in read_rows(result.run_dir / "validation.jsonl") if r["step"] == 6)
    assert last["distance"] == pytest.approx(frechet_distance(*features), rel=1e-4)


def test_features_of_the_photographs_are_computed_once(tmp_path, extractor, monkeypatch):
    seen = []
    call = Extractor.__call__

    def count(self, pictures):
        seen.append(len(pictures))
        return call(self, pictures)

    monkeypatch.setattr(Extractor, "__call__", count)
    recipe = make_recipe(tmp_path)
    train(options(recipe, tmp_path / "runs", *WATCHED, extractor))
    assert sum(seen) == 2 + 3 * 2
    seen.clear()
    train(options(recipe, tmp_path / "again", *WATCHED, extractor))
    assert sum(seen) == 3 * 2


def test_an_interrupted_run_has_the_same_rows_and_best(tmp_path, extractor):
    recipe = make_recipe(tmp_path)
    whole = train(options(recipe, tmp_path / "whole", *WATCHED, extractor))
    for minutes in (0.0, 0.0, 0.0, None):
        part = train(options(recipe, tmp_path / "parts", *WATCHED, extractor, max_minutes=minutes))
    a, b = (read_rows(r.run_dir / "validation.jsonl") for r in (whole, part))
    timeless = [[{k: v for k, v in r.items() if k != "seconds"} for r in rows] for rows in (a, b)]
    assert timeless[0] == timeless[1]
    assert_same_weights(whole.best, part.best)
    assert_same_weights(whole.weights, part.weights)


def test_without_an_extractor_there_are_sheets_and_no_best(tmp_path, capsys):
    from spadecli.cli.ui import UI

    result = train(options(make_recipe(tmp_path), tmp_path / "runs", *WATCHED), UI())
    said = capsys.readouterr().err
    assert "no extractor is set, so no distance is measured and no best weights are kept" in said
    assert "step 4: validation on 2 pairs: no measure is configured" in said
    assert result.best is None
    assert [r["distance"] for r in read_rows(result.run_dir / "validation.jsonl")] == [None] * 3


def test_a_look_is_told_and_the_lowest_is_named(tmp_path, extractor, capsys):
    from spadecli.cli.ui import UI

    train(options(make_recipe(tmp_path), tmp_path / "runs", *WATCHED, extractor), UI())
    lines = [line for line in capsys.readouterr().err.splitlines() if "validation on 2 pairs" in line]
    assert len(lines) == 3
    assert lines[0].startswith("step 2: validation on 2 pairs: Fréchet distance (tiny_features) ")
    assert lines[0].endswith(", the lowest so far")


def test_what_does_not_open_is_refused_before_anything_is_written(tmp_path, extractor):
    recipe = make_recipe(tmp_path)
    wrong = (
        ("validation.extractor=missing.pt", "no such extractor"),
        ("validation.segmenter=some.pt", "no such segmenter"),
        ("validation.pairs=3", "at most half of the 4 pairs"),
    )
    for override, words in wrong:
        for run in (train, plan_training):
            with pytest.raises(UserError) as e:
                run(options(recipe, tmp_path / "runs", *WATCHED, override))
            assert words in str(e.value)
    assert not (tmp_path / "runs").exists()


class Brightness:
    """A segmenter of the tiny label space that tells classes by brightness; shown every image once."""

    name, sha256, labels = "brightness", "0" * 64, LabelSpace(name="tiny", classes=("door", "wall", "window"))

    def predict(self, images):
        return np.minimum(images.mean(-1) // 86, 2).astype(np.uint8)


def test_a_segmenter_s_miou_goes_into_the_row(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(validating, "open_segmenter", lambda *_, **__: opened.append(Brightness()) or opened[-1])
    recipe = make_recipe(tmp_path)
    result = train(options(recipe, tmp_path / "runs", *WATCHED, "validation.segmenter=any"))
    rows = read_rows(result.run_dir / "validation.jsonl")
    assert len(rows) == 3
    assert len(opened) <= 2  # to check it before anything is written, and to look through it
    assert all(0 <= r["mean_iou"] < 1 for r in rows)


def test_mean_iou_is_of_the_masks_classes_by_name():
    agreement = validating.MaskAgreement(Brightness(), LabelSpace(name="tiny", classes=("wall", "window", "door")))
    images = np.zeros((1, 2, 2, 3), np.uint8)
    images[0, 0] = 100  # a wall, channel 0; the rest a door, channel 2
    agreement.add(images, np.array([[[0, 0], [2, 1]]], np.uint8))
    assert agreement.mean_iou() == pytest.approx((1 + 0 + 1 / 2) / 3)


def test_the_picture_of_the_losses_gets_the_curve(tmp_path):
    from PIL import Image

    rows = [{"step": i, "g_hinge": 1.0} for i in range(3)]
    looks = [{"step": i, "measure": "Fréchet distance (x)", "distance": 9.0 - i} for i in range(3)]
    plot_losses(rows, tmp_path / "a.png")
    plot_losses(rows, tmp_path / "b.png", looks)
    heights = [Image.open(tmp_path / name).height for name in ("a.png", "b.png")]
    assert heights[1] > heights[0]


def test_a_plan_tells_what_is_kept_out(tmp_path):
    recipe = make_recipe(tmp_path)
    plan = plan_training(options(recipe, tmp_path / "runs", *WATCHED))
    assert (plan.pairs, plan.validation, plan.held_out) == (2, ("p1", "p4"), 1)
    assert {"validation.every", "validation.extractor", "train.recalibrate"} <= {key for key, _, _ in plan.settings}


def test_recalibrated_weights_differ_in_statistics_alone_and_training_does_not(tmp_path, extractor):
    recipe = make_recipe(tmp_path)
    plain = train(options(recipe, tmp_path / "plain", *WATCHED, extractor))
    asked = train(options(recipe, tmp_path / "asked", *WATCHED, extractor, "train.recalibrate=3"))
    a, b = load_file(plain.weights), load_file(asked.weights)
    different = {n for n in a if not torch.equal(a[n], b[n])}
    assert different == {n for n in a if n.endswith(("running_mean", "running_var"))}
    states = [torch.load(r.run_dir / "state.pt", weights_only=True)["trainer"] for r in (plain, asked)]
    assert all(
        torch.equal(v, states[1]["ema"]["averages"]["generator"][n])
        for n, v in states[0]["ema"]["averages"]["generator"].items()
    )
    assert read_card(asked.weights).training["recalibrated_on_batches"] == 3
    assert asked.recalibration.batches == 3
    last = read_rows(asked.run_dir / "validation.jsonl")[-1]
    first = read_rows(plain.run_dir / "validation.jsonl")[-1]
    assert asked.recalibration.after == pytest.approx({last["measure"]: last["distance"]})
    assert asked.recalibration.before == pytest.approx({first["measure"]: first["distance"]})
    assert "standard deviations changed by" in asked.recalibration.line
    assert f"{first['measure']} {first['distance']:.5g} -> {last['distance']:.5g}" in asked.recalibration.line


def test_a_finished_run_is_exported_again_on_request(tmp_path):
    recipe = make_recipe(tmp_path)
    first = train(options(recipe, tmp_path / "runs"))
    assert first.recalibration is None
    before = load_file(first.weights)
    again = train(options(recipe, tmp_path / "runs", recalibrate=True))
    assert again.finished
    assert again.recalibration.batches == 50
    assert again.recalibration.before == again.recalibration.after == {}
    after = load_file(again.weights)
    assert any(not torch.equal(before[n], after[n]) for n in before)
    whole = train(options(recipe, tmp_path / "whole", recalibrate=True))
    assert_same_weights(whole.weights, again.weights)
    assert json.loads((again.run_dir / "run.json").read_text())["finished"]


def test_the_z_of_a_sheet_decide_how_much_samples_differ(tmp_path):
    result = train(options(make_recipe(tmp_path), tmp_path / "runs"))
    rows = read_rows(result.run_dir / "samples.jsonl")
    assert [r["step"] for r in rows] == [3, 6]
    assert all(r["spread_over_z"] >= 0 for r in rows)
    mapped = train(options(make_recipe(tmp_path, "map"), tmp_path / "map"))
    assert not (mapped.run_dir / "samples.jsonl").exists()


def test_warnings_are_given_while_training(tmp_path, monkeypatch, capsys):
    from spadecli.cli.ui import UI
    from spadecli.training import warnings as train_watch

    monkeypatch.setattr(train_watch, "COLLAPSED_STEPS", 2)
    monkeypatch.setattr(train_watch, "COLLAPSED_LOSS", 9.0)
    monkeypatch.setattr(train_watch, "YOUNG_STEPS", 0)
    monkeypatch.setattr(train_watch, "SAME_STYLE", 9.0)
    recipe = make_recipe(tmp_path)
    train(options(recipe, tmp_path / "runs", max_minutes=0.0), UI())
    train(options(recipe, tmp_path / "runs"), UI())
    said = capsys.readouterr().err
    assert said.count("discriminator's loss has been at 0") == 1
    assert said.count("style ignored") == 1


def test_a_folder_of_label_maps_is_no_segmenter_for_validation(tmp_path):
    (tmp_path / "maps").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "maps" / "a.png")
    recipe = load_recipe(make_recipe(tmp_path), (f"validation.segmenter={tmp_path / 'maps'}",)).recipe
    with pytest.raises(UserError, match="knows the pictures it was predicted from"):
        open_agreement(recipe, "cpu")
