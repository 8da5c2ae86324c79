"""``spade render --tile``: the same images from masks of any size, and what cannot be tiled says so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_backend import make_card, pixels, write_mask

from spadecli.backends import open_backend
from spadecli.commands.render.command import RenderOptions, render
from spadecli.core.errors import UserError
from spadecli.data.edges import instance_edges
from spadecli.model.generator import Generator
from spadecli.model.semantic import SemanticMap
from spadecli.weights.file import folded_state_dict, save_weights


def weights(path, **architecture):
    torch.manual_seed(0)
    card = make_card(**{"ngf": 2, "hidden": 4, **architecture}, instances=True)
    generator = Generator(card.architecture, card.labels.semantic_channels)
    for module in generator.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    channels, edges = torch.randint(0, 3, (2, 24, 24)), torch.randint(0, 2, (2, 24, 24))
    large = (t.repeat_interleave(8, 1).repeat_interleave(8, 2) for t in (channels, edges))
    with torch.no_grad():  # batch-norm statistics as they are met: without, images are black and white
        generator(SemanticMap(*large, 3), torch.randn(2, 4) if card.architecture.uses_z else None)
    save_weights(path, card, folded_state_dict(generator.eval()), None)
    return path


@pytest.mark.parametrize("conditioning", ["spade", "concat"])
@pytest.mark.parametrize("plain", [False, True])
def test_tiles_give_the_same_images_and_a_folder_goes_on_with_them(tmp_path, conditioning, plain):
    path = weights(tmp_path / "w.safetensors", conditioning=conditioning)
    for name in ("a", "b"):
        write_mask(tmp_path / "masks" / f"{name}.png")
    options = {"masks": tmp_path / "masks", "weights": path, "size": (352, 480), "plain": plain, "samples": 2}
    whole = render(RenderOptions(out=tmp_path / "whole", **options))
    tiled = render(RenderOptions(out=tmp_path / "tiled", tile=128, **options))
    assert whole.images == tiled.images == 4
    for name in ("a_0.png", "a_1.png", "b_0.png", "b_1.png"):
        difference = pixels(whole.out / name).astype(int) - pixels(tiled.out / name)
        assert np.abs(difference).max() <= 1
    assert render(RenderOptions(out=tmp_path / "whole", tile="auto", **options)).skipped == 4


@pytest.mark.parametrize("form", ["fast", "plain"])
@pytest.mark.parametrize("latent", ["noise", "map"])
def test_the_backend_gives_the_same_numbers(tmp_path, form, latent):
    path = weights(tmp_path / "w.safetensors", latent=latent)
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(0, 3, (2, 44, 28), np.uint8), np.ones((1, 8, 8), np.uint8))
    edges = instance_edges(labels)
    z = rng.standard_normal((4, 4)).astype(np.float32) if latent == "noise" else None
    with open_backend(path, form=form) as one, open_backend(path, form=form, tile=64) as many:
        whole, tiled = one.run(labels, edges, z), many.run(labels, edges, z)
    assert 0.02 < whole.std() < 0.95
    # the fast form's convolutions round by where their own tiles of 4x4 pixels lie, and those shift
    assert np.abs(whole - tiled).max() <= (1e-5 if form == "plain" else 3e-5)


def test_what_cannot_be_tiled_says_why(tmp_path):
    with pytest.raises(UserError, match="instance norm needs mean and variance of the whole image"):
        open_backend(weights(tmp_path / "i.safetensors", norm="instance"), tile="auto")
    with pytest.raises(UserError, match="tile 100: expected a multiple of 32") as e:
        open_backend(weights(tmp_path / "b.safetensors"), tile=100)
    assert "96" in e.value.hint
    (tmp_path / "w.onnx").touch()
    with pytest.raises(UserError, match="images of one size, not tiles"):
        open_backend(tmp_path / "w.onnx", tile="auto")
    with pytest.raises(UserError, match="exclude each other"):
        render(RenderOptions(masks=tmp_path, engine="auto", tile=512))
