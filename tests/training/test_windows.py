"""Training on windows of the images: where they lie, and that a whole window is the image; that such runs resume."""

import numpy as np
import pytest
import torch
from networks import visible
from tiny_training import assert_same_weights, make_recipe, options
from together import succeed

from spadecli.commands.train.command import train
from spadecli.core.architecture import Architecture
from spadecli.core.errors import UserError
from spadecli.core.recipe_files import load_recipe
from spadecli.data.dataset import StepSampler, StepWindows, TrainingSet
from spadecli.model.cutting import cut
from spadecli.model.generator import Generator
from spadecli.model.semantic import SemanticMap
from spadecli.store.run_folder import RunFolder
from spadecli.training.memory import estimate_memory
from spadecli.windows.collate import CollateWindows

WINDOWS = ("train.window=[32,32]", "train.window_share=0.6")
AUGMENTED = ("discriminator.augment=color,translation,cutout", "discriminator.augment_from=9")
SEGMENTED = ("discriminator.kind=segmentation", "loss.feature_matching=0")


def recipe_of(folder, *overrides, **more):
    return load_recipe(make_recipe(folder, scale=2, **more), overrides).recipe


def test_steps_and_places_are_drawn_by_seed_and_step():
    windows = StepWindows((64, 96), (32, 64), 32, 0.6, 4)
    drawn = [windows.places(step, 8) for step in range(400)]
    assert drawn == [windows.places(step, 8) for step in range(400)]
    assert all(len(places) == 8 for places in drawn)
    on = [places for places in drawn if any(places)]
    assert 0.5 < len(on) / len(drawn) < 0.7
    assert {place for places in on for place in places} == {(0, 0), (0, 32), (32, 0), (32, 32)}
    sampler = StepSampler([2, 3, 5], 2, 4, 0, 6, windows=windows)
    whole = list(StepSampler([2, 3, 5], 2, 4, 0, 6))
    assert [[key[:2] for key in keys] for keys in sampler] == whole
    assert [[key[2:] for key in keys] for keys in sampler] == [windows.places(step, 2) for step in range(6)]
    assert list(StepSampler([2, 3, 5], 2, 4, 3, 6, windows=windows)) == list(sampler)[3:]


def test_an_item_is_a_window_of_the_whole_one(tmp_path):
    recipe = recipe_of(tmp_path, *WINDOWS, instances=True)
    dataset = TrainingSet(tmp_path / "tiny.h5", recipe)
    whole, part = dataset[(1, 2)], dataset[(1, 2, 32, 0)]
    for name in ("photo", "eps"):
        assert torch.equal(whole[name], part[name])
    for name in ("channels", "edges"):
        assert torch.equal(whole[name][32:, :32], part[name])
    assert part["at"].tolist() == [32, 0]
    batch = CollateWindows(recipe)([part, dataset[(1, 0, 0, 32)]])
    assert set(batch["windows"].shapes) == {(32 >> i, 32 >> i) for i in range(6)}


def test_maps_are_cut_where_they_are_to_be():
    x = torch.arange(2.0 * 3 * 4 * 5).reshape(2, 3, 4, 5).requires_grad_()
    found = cut(x, torch.tensor([[1, 2], [0, 0]]), (2, 3))
    assert torch.equal(found[0], x[0, :, 1:3, 2:5])
    assert torch.equal(found[1], x[1, :, :2, :3])
    found.sum().backward()
    assert x.grad.sum() == found.numel()


@torch.no_grad()
def test_inside_a_window_the_start_is_the_whole_image_s():
    arch = Architecture(size=(128, 128), ngf=2, z_dim=4, hidden=4, latent="noise")
    generator = Generator(arch, 3).eval()
    visible(generator, 0)
    channels, z, at = torch.zeros(2, 128, 128, dtype=torch.int64), torch.randn(2, 4), torch.tensor([[32, 64], [0, 32]])
    whole = generator.start(SemanticMap(channels, None, 3), z)
    part = generator.start(SemanticMap(channels[:, :64, :64], None, 3), z, at)
    assert torch.equal(part[0], whole[0, :, 1:3, 2:4])
    assert torch.equal(part[1], whole[1, :, 0:2, 1:3])


@pytest.mark.parametrize("latent", ["encoder", "map"])
def test_a_window_of_the_whole_size_changes_nothing(tmp_path, latent):
    path = make_recipe(tmp_path, latent)
    for name, changes in (("plain", ()), ("windows", ("train.window=[32,32]", "train.window_share=1"))):
        train(options(path, tmp_path / name, *changes))
    assert_same_weights(*(RunFolder(tmp_path / name / "tiny").weights_path for name in ("plain", "windows")))


@pytest.mark.parametrize("changes", [WINDOWS, AUGMENTED, SEGMENTED], ids=["windows", "augmented", "segmented"])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, changes):
    path = make_recipe(tmp_path, scale=2, instances=True)
    whole = train(options(path, tmp_path / "whole", *changes))
    other = train(options(path, tmp_path / "other"))
    parts = train(options(path, tmp_path / "parts", *changes, max_minutes=0))
    assert not parts.finished
    while not parts.finished:
        parts = train(options(path, tmp_path / "parts", *changes, max_minutes=0))
    assert_same_weights(whole.weights, parts.weights)
    with pytest.raises(AssertionError):
        assert_same_weights(whole.weights, other.weights)


@pytest.mark.dist
def test_two_processes_train_like_one(tmp_path):
    path = make_recipe(tmp_path, pairs=9, scale=2)
    overrides = (*WINDOWS, *AUGMENTED, "train.batch=4", "train.accumulate=2", "train.precision=fp64", "train.steps=4")
    rows = []
    for size in (1, 2):
        what = options(path, tmp_path / str(size), *overrides)
        train(what) if size == 1 else succeed(size, tmp_path, train, what)
        rows.append(RunFolder(tmp_path / str(size) / "tiny").stats()[-1])
    for name in ("g_hinge", "d_real", "feature_matching", "kl", "g_norm"):
        np.testing.assert_allclose(rows[0][name], rows[1][name], 1e-5)


def test_memory_is_that_of_windows_only_where_every_step_has_them(tmp_path):
    whole, some, every = (
        estimate_memory(recipe_of(tmp_path, "train.window=[32,32]", f"train.window_share={share}"))
        for share in (0, 0.9, 1)
    )
    assert some == whole
    assert every.activations < 0.6 * whole.activations


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (("train.window=[48,32]",), "train.window [48, 32]: expected multiples of 32, at most model.size [64, 64]"),
        (("train.window=[96,32]",), "train.window [96, 32]: expected multiples of 32"),
        (("train.window_share=0.5",), "train.window_share needs a train.window"),
    ],
)
def test_windows_that_cannot_be_are_refused(tmp_path, overrides, problem):
    with pytest.raises(UserError) as e:
        recipe_of(tmp_path, *overrides)
    assert any(problem in line for line in e.value.problems)
