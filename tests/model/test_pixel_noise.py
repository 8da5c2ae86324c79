"""Pixel noise: what is added, where it begins, and that it starts from nothing; test_parity.py has its other forms."""

import numpy as np
import pytest
import torch
from tiny_training import make_recipe, options

from spadecli.commands.train.command import train
from spadecli.core.recipe_files import load_recipe
from spadecli.data.dataset import TrainingSet
from spadecli.model.pixel_noise import GAIN, PERIOD, PixelNoise, noise_of, noise_pattern
from spadecli.model.semantic import SemanticMap
from spadecli.training.ema import averaged_networks
from spadecli.training.init_from import open_init
from spadecli.training.setup import new_trainer
from spadecli.weights.file import load_weights

WEIGHTS = torch.tensor([0.5, 0.0, -1.0])


def layer(block: int) -> PixelNoise:
    noise = PixelNoise(block, 3)
    with torch.no_grad():
        noise.weight.copy_(WEIGHTS)
    return noise


def test_the_pattern_is_normal_and_stays_the_same():
    pattern = noise_pattern()
    assert pattern.shape == (PERIOD, PERIOD)
    assert abs(pattern.mean()) < 0.02
    assert abs(pattern.std() - 1) < 0.02
    # these values are part of every network trained with them
    np.testing.assert_allclose(pattern[0, :3], [0.80214, -0.27847, 0.63700], atol=1e-4)
    neighbours = np.corrcoef(pattern[:, 1:].ravel(), pattern[:, :-1].ravel())[0, 1]
    assert abs(neighbours) < 0.02


@pytest.mark.parametrize("first", [(0, 0), (5, 300)])
def test_each_channel_gets_its_share_of_the_noise(first):
    x = torch.randn(2, 3, 7, 400)
    found = layer(2)(x.clone(), first)
    rows, columns = ((np.arange(n) + begin + 202) % PERIOD for n, begin in zip((7, 400), first, strict=True))
    noise = torch.from_numpy(noise_pattern()[np.ix_(rows, columns)])
    torch.testing.assert_close(found, x + GAIN * WEIGHTS[:, None, None] * noise)
    if first == (0, 0):
        assert np.array_equal(noise_of(2, (7, 400)), noise)


def test_in_training_each_image_has_noise_of_its_own():
    x, places = torch.zeros(2, 3, 4, 5), torch.tensor([[0, 0], [9, 70000]])
    found = layer(1)(x, places=places)
    assert torch.equal(found[:1], layer(1)(x[:1].clone()))
    assert torch.equal(found[1:], layer(1)(x[:1].clone(), (9, 70000)))
    assert x.abs().max() == 0  # with gradients x stays as it is


def test_a_recipe_with_noise_starts_from_weights_without_it(tmp_path):
    recipe = make_recipe(tmp_path)
    plain = train(options(recipe, tmp_path / "plain"))
    noisy = load_recipe(recipe, ("model.pixel_noise=true",)).recipe
    trainer = new_trainer(noisy, torch.device("cpu"), open_init(plain.weights, noisy))
    _, generator, _ = load_weights(plain.weights)
    semantic, z = _inputs(tmp_path, noisy)
    with torch.no_grad():
        # the averages are the weights as given; the networks divide by sigma
        started, _ = averaged_networks(noisy, trainer.ema.averages, torch.device("cpu"))
        torch.testing.assert_close(started(semantic, z), generator(semantic, z), atol=1e-5, rtol=0)
    done = train(options(recipe, tmp_path / "noisy", "model.pixel_noise=true", init=plain.weights))
    card, trained, _ = load_weights(done.weights)
    assert card.architecture.pixel_noise
    assert all(noise.weight.abs().max() > 0 for noise in trained.noises)


def _inputs(folder, recipe):
    codes = TrainingSet(folder / "tiny.h5", recipe).centre(0).channels
    semantic = SemanticMap(torch.from_numpy(codes)[None].long(), None, recipe.labels.num_classes)
    return semantic, torch.randn(2, recipe.model.z_dim, generator=torch.Generator().manual_seed(0))


def test_noise_in_training_depends_on_seed_epoch_and_image(tmp_path):
    recipe = load_recipe(make_recipe(tmp_path), ("model.pixel_noise=true",)).recipe
    data = TrainingSet(tmp_path / "tiny.h5", recipe)
    places = [data[key]["noise_places"].tolist() for key in ((0, 1), (0, 1), (1, 1), (0, 2))]
    assert places[0] == places[1]
    assert len({tuple(p) for p in places}) == 3
    assert "noise_places" not in TrainingSet(tmp_path / "tiny.h5", load_recipe(tmp_path / "tiny.toml").recipe)[0, 1]
