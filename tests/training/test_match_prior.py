"""The moments of the encoder's style codes folded into the weights: the same renders, and codes like N(0, I)."""

import pytest
import torch
from networks import random_statistics, visible
from safetensors.torch import load_file
from tiny_training import make_recipe, options

from spadecli.commands.train.command import train
from spadecli.core.architecture import Architecture
from spadecli.core.errors import UserError
from spadecli.core.recipe_files import load_recipe
from spadecli.data.dataset import TrainingSet
from spadecli.model.encoder import ImageEncoder, reparameterize
from spadecli.model.generator import Generator
from spadecli.model.semantic import SemanticMap
from spadecli.training.recalibration import posterior_moments
from spadecli.training.sheets import photo_tensor
from spadecli.weights.file import load_weights, read_card
from spadecli.weights.folding import fold_posterior

ARCH = Architecture(size=(64, 64), ngf=2, z_dim=5, hidden=4, latent="encoder", encoder_grid=4)
RANDOM = torch.Generator().manual_seed(3)
PHOTOS = torch.rand(12, 1, 1, 1, generator=RANDOM) * torch.rand(12, 3, 64, 64, generator=RANDOM).double() * 2 - 1


def networks(states=None) -> tuple[Generator, ImageEncoder]:
    generator, encoder = Generator(ARCH, 3, spectral=False), ImageEncoder(ARCH, spectral=False)
    for i, network in enumerate((generator, encoder)):
        visible(network, i)
        random_statistics(network)
        if states is not None:
            network.double().load_state_dict(states[i])
    if states is None:
        encoder.fc_mu.bias.data.copy_(torch.tensor([3.0, -2.0, 0.0, 1.0, 0.5]))
        encoder.fc_logvar.weight.data.mul_(0.1)
        encoder.fc_logvar.bias.data.fill_(-1.5)
    return generator.eval().double(), encoder.eval().double()


@torch.no_grad()
def test_encoded_photographs_render_as_before_and_their_codes_have_mean_0_and_variance_1():
    generator, encoder = networks()
    mean, deviation = posterior_moments(encoder, PHOTOS.split(5))
    assert mean.abs().max() > 0.5
    assert (deviation - 1).abs().max() > 0.2
    folded = networks(fold_posterior(generator.state_dict(), encoder.state_dict(), mean, deviation))
    semantic = SemanticMap(torch.randint(3, (12, 64, 64), generator=RANDOM), None, 3)
    eps = torch.randn(12, 5, generator=RANDOM).double()
    before, after = (g(semantic, reparameterize(*e(PHOTOS), eps)) for g, e in ((generator, encoder), folded))
    assert before.std() > 0.1
    torch.testing.assert_close(after, before, rtol=0, atol=1e-10)
    mu, logvar = folded[1](PHOTOS)
    torch.testing.assert_close(mu.mean(0), torch.zeros_like(mean), rtol=0, atol=1e-10)
    torch.testing.assert_close(mu.var(0, correction=0) + logvar.exp().mean(0), torch.ones_like(mean))


def test_a_run_exports_matched_weights_and_its_card_says_so(tmp_path):
    path = make_recipe(tmp_path)
    for name, changes in (("plain", ()), ("matched", ("train.match_prior=3",)), ("all", ("train.match_prior=200",))):
        train(options(path, tmp_path / name, *changes))
    plain, matched, every = (tmp_path / name / "tiny" / "weights.safetensors" for name in ("plain", "matched", "all"))
    assert read_card(matched).training["prior_matched_on_photographs"] == 3
    assert read_card(every).training["prior_matched_on_photographs"] == 4
    assert "prior_matched_on_photographs" not in read_card(plain).training
    first, second = load_file(plain), load_file(every)
    changed = {name.partition(".")[2] for name, value in first.items() if not torch.equal(value, second[name])}
    assert changed == {"fc.weight", "fc.bias", "fc_mu.weight", "fc_mu.bias", "fc_logvar.bias"}
    encoder = load_weights(every)[2]
    dataset = TrainingSet(tmp_path / "tiny.h5", load_recipe(path).recipe)
    with torch.no_grad():  # p3 is held out
        mean, deviation = posterior_moments(encoder, [photo_tensor(dataset.centre(i).photo) for i in (0, 1, 2, 4)])
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-5)
    torch.testing.assert_close(deviation, torch.ones_like(mean))


@pytest.mark.parametrize("latent", ["map", "noise"])
def test_there_is_nothing_to_match_without_an_encoder(tmp_path, latent):
    with pytest.raises(UserError) as e:
        train(options(make_recipe(tmp_path, latent), tmp_path / "runs", "train.match_prior=3"))
    assert "train.match_prior does nothing without model.latent" in e.value.problems[0]


def test_recalibration_comes_after_it(tmp_path):
    path = make_recipe(tmp_path)
    result = train(options(path, tmp_path / "runs", "train.match_prior=4", "train.recalibrate=2"))
    training = read_card(result.weights).training
    assert (training["recalibrated_on_batches"], training["prior_matched_on_photographs"]) == (2, 4)
    assert result.recalibration is not None
