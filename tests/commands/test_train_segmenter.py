import json
import os
import signal

import numpy as np
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from tiny_segmentation import make_packed, make_recipe, options, pictures

from spadecli.commands.inspect.command import InspectOptions, inspect
from spadecli.commands.render.command import RenderOptions, render
from spadecli.commands.train_segmenter import command
from spadecli.commands.train_segmenter.command import plan_segmenter, train_segmenter
from spadecli.core.errors import UserError
from spadecli.core.labelspace import LabelSpace
from spadecli.core.report import Silent
from spadecli.segmenter.file import read_segmenter_card
from spadecli.segmenter.registry import open_segmenter
from spadecli.segmenter.samples import SegmentationSet


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    recipe = make_recipe(tmp_path_factory.mktemp("blobs"))
    return train_segmenter(options(recipe, steps=70, width=8))


def test_a_few_seconds_learn_classes_that_colours_give_away(trained):
    assert trained.card.miou_real > 0.9
    assert trained.card.miou_majority < 0.3
    photos, channels = pictures(4, seed=99)
    found = open_segmenter(trained.weights, "cpu").predict(photos)
    assert (found == channels).mean() > 0.9


def test_the_card_says_what_it_is_and_how_it_did(trained):
    card = read_segmenter_card(trained.weights)
    assert card.miou_real == trained.card.miou_real
    assert card.labels.name == "blobs"
    assert card.licence == "none needed"
    assert (card.training["samples"], card.training["held_out"], card.training["data"]) == (10, 2, "made up")
    assert card.training["steps"] == 70
    assert card.training["seconds"] > 0
    assert "held out by the recipe" in card.metrics["protocol"]
    assert set(card.metrics["class_iou"]) == {"red", "green", "blue"}
    # colour is all there is to see here, so the baseline is as good, and the card does not claim more
    assert card.miou_color_position > 0.9
    assert not card.beats_baselines


def test_held_out_pairs_are_never_sampled(tmp_path, monkeypatch):
    recipe = make_recipe(tmp_path)
    seen = set()
    original = SegmentationSet.__getitem__
    monkeypatch.setattr(SegmentationSet, "__getitem__", lambda self, key: seen.add(key[1]) or original(self, key))
    train_segmenter(options(recipe, steps=12))
    assert seen == set(range(12)) - {3, 7}


def test_validation_leaves_out_training_pairs_and_never_touches_the_held_out(tmp_path):
    plan = plan_segmenter(options(make_recipe(tmp_path), validate=3))
    left_out = {i for _, i in plan.unseen}
    assert left_out == {0, 4, 8, 11}
    assert not left_out & set(plan.fitted)
    assert not {3, 7} & ({*plan.fitted} | left_out)


def test_an_interrupted_training_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    recipe = make_recipe(tmp_path)
    whole = train_segmenter(options(recipe, steps=14, out=tmp_path / "whole"))
    step = command.SegmenterTrainer.step

    def interrupted(self, photos, targets, at, steps):
        if at == 9:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, photos, targets, at, steps)

    with monkeypatch.context() as patch:
        patch.setattr(command.SegmenterTrainer, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_segmenter(options(recipe, steps=14, out=tmp_path / "parts"))
    assert not (tmp_path / "parts" / "segmenter.safetensors").exists()
    parts = train_segmenter(options(recipe, steps=14, out=tmp_path / "parts"))
    a, b = load_file(whole.weights), load_file(parts.weights)
    assert [n for n in a if not torch.equal(a[n], b[n])] == []
    assert parts.card.metrics == whole.card.metrics


def test_another_training_in_the_folder_is_refused(tmp_path):
    recipe = make_recipe(tmp_path)
    train_segmenter(options(recipe, steps=2))
    with pytest.raises(UserError, match="another segmenter's training") as e:
        train_segmenter(options(recipe, steps=2, width=8))
    assert "width: 4 -> 8" in e.value.problems
    (tmp_path / "run" / "state.pt").write_bytes(b"no")
    with pytest.raises(UserError, match="damaged"):
        train_segmenter(options(recipe, steps=2))


def test_unknown_pixels_neither_train_nor_count(tmp_path):
    recipe = make_recipe(tmp_path, unknown="unseen")
    result = train_segmenter(options(recipe, steps=70, width=8))
    photos, _ = pictures(3, seed=5, hidden=True)
    assert result.card.miou_real > 0.85  # unknown rows of the pictures would cost an eighth
    assert (open_segmenter(result.weights, "cpu").predict(photos) != 3).all()


def test_a_test_file_of_its_own(tmp_path):
    recipe = make_recipe(tmp_path, holdout=())
    labels = LabelSpace(name="blobs", classes=("red", "green", "blue", "unseen"))
    assert train_segmenter(options(recipe, steps=2)).card.miou_real is None
    test = make_packed(tmp_path / "test.h5", labels, 3, prefix="t", seed=7)
    result = train_segmenter(options(recipe, steps=2, test=test))
    assert result.card.training["held_out"] == 3
    assert "test.h5" in result.card.metrics["protocol"]
    same = make_packed(tmp_path / "same.h5", labels, 3)
    with pytest.raises(UserError, match=r"same\.h5") as e:
        plan_segmenter(options(recipe, test=same))
    assert "3 of its pairs are trained on" in e.value.problems[0]
    other = make_packed(tmp_path / "other.h5", LabelSpace(name="x", classes=("red", "a", "b", "c")), 3, prefix="t")
    with pytest.raises(UserError, match=r"other\.h5"):
        plan_segmenter(options(recipe, test=other))


def test_minutes_become_steps(tmp_path, monkeypatch):
    recipe = make_recipe(tmp_path)
    monkeypatch.setattr(command, "TIMED_STEPS", 2)
    plan = plan_segmenter(options(recipe, steps=None))
    steps = command._steps_in(plan, 1.0, Silent())
    assert command._steps_in(plan, 100.0, Silent()) > steps > 10


def test_the_plan_writes_nothing_and_misses_nothing(tmp_path):
    recipe = make_recipe(tmp_path)
    plan = plan_segmenter(options(recipe))
    assert (len(plan.fitted), len(plan.unseen), plan.parameters > 1000) == (10, 2, True)
    assert not plan.run_dir.exists()
    with pytest.raises(UserError, match="are missing"):
        plan_segmenter(options(recipe, overrides=("data.packed=nowhere.h5",)))


def test_inspect_shows_a_segmenter_and_render_says_what_it_is(trained, tmp_path):
    found = inspect(InspectOptions(trained.weights))
    assert found.kind == "segmenter weights"
    assert found.facts["miou_real"] == trained.card.miou_real
    assert [row["name"] for row in found.rows] == ["red", "green", "blue", "unseen"]
    with pytest.raises(UserError, match="segmenter weights"):
        render(RenderOptions(masks=tmp_path, weights=trained.weights, out=tmp_path / "out"))


def test_the_shipped_segmenter_is_small_and_beats_its_baselines():
    path = ROOT / "weights" / "facades_segmenter.safetensors"
    card = read_segmenter_card(path)
    assert path.stat().st_size < 6e6
    assert card.beats_baselines
    assert card.training["held_out"] == 40
    assert "held out by the recipe" in card.metrics["protocol"]
    assert card.licence.startswith("CC BY-SA")
    assert json.loads(card.model_dump_json())["labels"]["name"] == "facades"
    assert np.isfinite(card.metrics["class_iou"]["window"])
