"""Devices of several processes, and what is said where memory runs out."""

import re

import pytest
import torch
from tiny_training import make_recipe

from spadecli.compute.devices import device_of_rank
from spadecli.core.errors import BackendUnavailable, UserError
from spadecli.core.ranks import Ranks
from spadecli.core.recipe_files import load_recipe
from spadecli.training.memory import estimate_memory, memory_advice, out_of_memory
from spadecli.training.setup import describe_batch


def recipe_of(folder, *overrides):
    return load_recipe(make_recipe(folder, scale=2), overrides).recipe


def test_memory_is_that_of_what_a_process_takes_at_a_time(tmp_path):
    recipe = recipe_of(tmp_path, "train.batch=16", "train.accumulate=2")
    eight = estimate_memory(recipe_of(tmp_path, "train.batch=8"))
    assert estimate_memory(recipe) == eight
    assert estimate_memory(recipe, 2).activations == pytest.approx(eight.activations / 2, rel=0.05)


def test_the_perceptual_network_counts(tmp_path):
    vgg19, vgg16, none = (
        estimate_memory(recipe_of(tmp_path, f"loss.perceptual_network={name}")) for name in ("vgg19", "vgg16", "none")
    )
    # VGG19 has two convolutions more up to relu5_1, of 256 and 512 channels
    assert vgg19.weights - vgg16.weights == 4 * sum(9 * c * c + c for c in (256, 512))
    assert none.weights < vgg16.weights
    assert none.activations < vgg16.activations < vgg19.activations


def test_memory_counts_the_discriminator_s_own_images(tmp_path):
    segmenting = ("discriminator.kind=segmentation", "loss.feature_matching=0", "train.batch=8", "discriminator.ndf=8")
    mixed = estimate_memory(recipe_of(tmp_path, *segmenting))
    unmixed = estimate_memory(recipe_of(tmp_path, *segmenting, "discriminator.label_mix=0"))
    generator = estimate_memory(recipe_of(tmp_path, "discriminator.ndf=1", "loss.feature_matching=0", "train.batch=8"))
    assert mixed.fixed == unmixed.fixed
    of_two, of_three = (x.activations - generator.activations for x in (unmixed, mixed))
    assert of_three == pytest.approx(1.5 * of_two, rel=0.1)  # fakes and photos; and mixed images


def test_the_advice_fits_into_the_memory(tmp_path):
    recipe, ranks = recipe_of(tmp_path, "train.batch=32"), Ranks(0, 2)
    needed = estimate_memory(recipe, 2)
    room = needed.fixed + needed.activations // 3
    error = out_of_memory(recipe, ranks, room)
    assert "train.batch = 32 (2 processes x 16), size 64x64, fp32: 16 at a time" in error.message
    parts = int(re.search(r"train\.accumulate=(\d+)", error.hint)[1])
    batch = int(re.search(r"train\.batch=(\d+)", error.hint)[1])
    assert "train.precision=bf16" in error.hint
    for change in (f"train.accumulate={parts}", f"train.batch={batch}"):
        assert estimate_memory(recipe_of(tmp_path, "train.batch=32", change), 2).total < room
    assert parts == 4
    alone = out_of_memory(recipe_of(tmp_path, "train.batch=1", "train.precision=bf16"), Ranks(), None)
    assert alone.hint == "a smaller model.size or model.ngf needs less"


def test_running_out_of_memory_is_no_bug(tmp_path):
    recipe = recipe_of(tmp_path, "train.batch=8")
    with pytest.raises(UserError, match="out of memory"), memory_advice(recipe, torch.device("cpu"), Ranks()):
        raise torch.OutOfMemoryError
    with pytest.raises(UserError, match="8 at a time"), memory_advice(recipe, torch.device("cpu"), Ranks()):
        torch.empty(1 << 58)
    with pytest.raises(RuntimeError, match="something else"), memory_advice(recipe, torch.device("cpu"), Ranks()):
        raise RuntimeError("something else")


def test_each_process_of_a_machine_takes_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr("spadecli.compute.devices.pick_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of_rank("cuda", Ranks(3, 4, 1, 2)) == torch.device("cuda", 1)
    assert device_of_rank("cuda", Ranks()) == torch.device("cuda")
    assert device_of_rank("cpu", Ranks(3, 4, 3, 4)) == torch.device("cpu")
    with pytest.raises(BackendUnavailable, match="4 processes on this machine, which has 2 GPUs"):
        device_of_rank("cuda", Ranks(0, 4, 0, 4))
    with pytest.raises(UserError, match="cannot share a GPU"):
        device_of_rank("cuda:1", Ranks(0, 2, 0, 2))


def test_how_a_batch_is_split_is_said(tmp_path):
    recipe = recipe_of(tmp_path, "train.batch=16", "train.accumulate=2")
    assert describe_batch(recipe, Ranks()) == "16 (2 micro-batches x 8)"
    assert describe_batch(recipe, Ranks(0, 4)) == "16 (4 processes x 2 micro-batches x 2)"
    assert describe_batch(recipe_of(tmp_path), Ranks()) == "2"
