"""Losses against numbers worked out by hand."""

import hashlib
import math

import pytest
import torch
from conftest import shared

from spadecli.core.errors import UserError
from spadecli.model import losses, perceptual
from spadecli.model.layers import SpectralConv2d
from spadecli.model.perceptual import PerceptualLoss, load_perceptual, squeezenet_layers, vgg16_layers, vgg19_layers
from spadecli.training.ema import EMA


def maps(*scores: float) -> losses.Maps:
    """One scale per score, four inner maps that equal it."""
    return [[torch.full((1, 2, 2, 2), s)] * 4 + [torch.full((1, 1, 3, 3), s)] for s in scores]


def test_hinge():
    fake, real = losses.hinge_discriminator(maps(-2.0, 0.5), maps(2.0, 0.25))
    assert fake.item() == pytest.approx((0 + 1.5) / 2)
    assert real.item() == pytest.approx((0 + 0.75) / 2)
    assert losses.hinge_generator(maps(-2.0, 0.5)).item() == pytest.approx(0.75)


def test_feature_matching_sums_maps_and_averages_scales():
    assert losses.feature_matching(maps(1.0, 3.0), maps(0.0, 1.0)).item() == pytest.approx((4 * 1 + 4 * 2) / 2)


def test_feature_matching_gives_the_real_side_no_gradient():
    real = torch.ones(1, 2, 2, 2, requires_grad=True)
    fake = torch.zeros(1, 2, 2, 2, requires_grad=True)
    score = torch.zeros(1, 1, 1, 1)
    losses.feature_matching([[fake] * 4 + [score]], [[real] * 4 + [score]]).backward()
    assert real.grad is None
    assert fake.grad is not None


def test_color_sees_squares_and_not_what_is_in_them():
    photo = torch.zeros(2, 3, 64, 32)
    fine = torch.ones(2, 3, 64, 32)
    fine[:, :, ::2] = -1  # stripes that average out within every 4 x 2 square
    assert losses.color(fine, photo).item() == pytest.approx(0)
    tinted = photo.clone()
    tinted[0, 0, :32] = 0.5  # one channel of one image, upper half
    tinted.requires_grad_()
    distance = losses.color(tinted, photo)
    distance.backward()
    assert distance.item() == pytest.approx(0.5 / (2 * 3 * 2))
    assert tinted.grad[0, 0, :32].unique().tolist() == pytest.approx([1 / tinted.numel()])


def test_kl_is_a_sum_over_dimensions_and_a_mean_over_samples():
    mu, logvar = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, math.log(4)], [0.0, 0.0]])
    first = 0.5 * 1 + 0.5 * (4 - 1 - math.log(4))
    assert losses.kl_divergence(mu, logvar).item() == pytest.approx(first / 2)
    twice = losses.kl_divergence(mu.repeat(8, 1), logvar.repeat(8, 1))
    assert twice.item() == pytest.approx(first / 2)  # whatever the batch


def test_ema_averages_effective_weights():
    torch.manual_seed(0)
    conv = SpectralConv2d(2, 3, 1)
    module = torch.nn.ModuleDict({"conv": conv}).eval()
    ema = EMA({"m": module}, decay=0.9)
    start = conv.effective_weight().detach().clone()
    with torch.no_grad():
        conv.weight.mul_(-1)  # sigma changes sign with it through u and v: the effective weight turns over
        conv.weight_u.mul_(-1)
    moved = conv.effective_weight().detach()
    ema.update()
    decay = 2 / 11
    torch.testing.assert_close(ema.averages["m"]["conv.weight"], start * decay + moved * (1 - decay))


# in torchvision's numbering
VGG_TAPS = {"vgg19": (1, 6, 11, 20, 29), "vgg16": (1, 6, 11, 18, 25)}
VGG_CONVOLUTIONS = {
    "vgg19": [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28],
    "vgg16": [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24],
}
VGG_LAYERS = {"vgg19": vgg19_layers, "vgg16": vgg16_layers}


@pytest.mark.parametrize("network", VGG_LAYERS)
def test_vgg_taps_are_the_first_convolution_of_each_block(network):
    layers, taps = VGG_LAYERS[network]()
    assert taps == VGG_TAPS[network]
    assert [i for i, layer in enumerate(layers) if isinstance(layer, torch.nn.Conv2d)] == VGG_CONVOLUTIONS[network]
    widths = [layers[t - 1].out_channels for t in taps]
    assert widths == [64, 128, 256, 512, 512]


@pytest.mark.parametrize(
    ("network", "build"), [("vgg19", vgg19_layers), ("vgg16", vgg16_layers), ("squeezenet", squeezenet_layers)]
)
def test_perceptual_loss_of_equal_images_is_zero_and_has_gradients(network, build):
    torch.manual_seed(0)
    state = {f"features.{k}": v for k, v in torch.nn.Sequential(*build()[0]).state_dict().items()}
    loss = PerceptualLoss(network, state)
    x = torch.rand(1, 3, 64, 64, requires_grad=True)
    assert loss(x, x.detach()).item() == 0
    value = loss(x, torch.zeros(1, 3, 64, 64))
    value.backward()
    assert value.item() > 0
    assert x.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in loss.parameters())


@pytest.mark.parametrize("network", VGG_LAYERS)
def test_vgg_loss_is_the_weighted_l1_of_its_maps(network):
    torch.manual_seed(0)
    state = torch.nn.Sequential(*VGG_LAYERS[network]()[0]).state_dict()
    loss = PerceptualLoss(network, state)
    a, b = torch.rand(1, 3, 32, 32) * 2 - 1, torch.rand(1, 3, 32, 32) * 2 - 1
    net = torch.nn.Sequential(*VGG_LAYERS[network]()[0])
    net.load_state_dict(state)
    expected, fa, fb = 0.0, a, b  # images as they are, without the ImageNet mean
    taps = iter(zip(VGG_TAPS[network], (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0), strict=True))
    tap, weight = next(taps)
    for i, layer in enumerate(net):
        fa, fb = layer(fa), layer(fb)
        if i == tap:
            expected += weight * (fa - fb).abs().mean().item()
            tap, weight = next(taps, (-1, 0.0))
    assert loss(a, b).item() == pytest.approx(expected, rel=1e-5)


def test_wrong_perceptual_weights_are_named(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(UserError, match="no such file"):
        load_perceptual("squeezenet", tmp_path / "missing.pth")
    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="not the squeezenet network"):
        load_perceptual("squeezenet", tmp_path / "other.safetensors")


def torchvision_state(network):
    """Weights as torchvision stores them: also those of layers behind the taps."""
    state = {f"features.{k}": v for k, v in torch.nn.Sequential(*VGG_LAYERS[network]()[0]).state_dict().items()}
    return state | {"features.30.weight": torch.zeros(1), "classifier.0.weight": torch.zeros(1)}


def test_vgg16_comes_from_either_format_and_vgg19_is_told_apart(tmp_path):
    from safetensors.torch import save_file

    state = torchvision_state("vgg16")
    torch.save(state, tmp_path / "net.pth")
    save_file(state, tmp_path / "net.safetensors")
    for name in ("net.pth", "net.safetensors"):
        loss = load_perceptual("vgg16", tmp_path / name)
        assert torch.equal(loss.features[24].weight, state["features.24.weight"])
    with pytest.raises(UserError, match=r"net\.pth: not the vgg19 network.*features\.16\.weight"):
        load_perceptual("vgg19", tmp_path / "net.pth")
    torch.save(torchvision_state("vgg19"), tmp_path / "net.pth")
    with pytest.raises(
        UserError, match=r"not the vgg16 network: missing or of the wrong shape: .*features\.17\.weight"
    ):
        load_perceptual("vgg16", tmp_path / "net.pth")


def test_vgg16_is_fetched_once_and_its_hash_checked(tmp_path, monkeypatch):
    assert perceptual.URLS["vgg16"] == "https://download.pytorch.org/models/vgg16-397923af.pth"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    torch.save(torchvision_state("vgg16"), tmp_path / "net.pth")
    published = (tmp_path / "net.pth").rename(
        tmp_path / f"vgg16-{hashlib.sha256((tmp_path / 'net.pth').read_bytes()).hexdigest()[:8]}.pth"
    )
    monkeypatch.setattr(perceptual, "URLS", {"vgg16": published.as_uri()})
    assert not perceptual.is_fetched("vgg16")
    load_perceptual("vgg16")
    assert perceptual.is_fetched("vgg16")
    changed = published.rename(tmp_path / "vgg16-00000000.pth")
    load_perceptual("vgg16")  # from the cache
    monkeypatch.setattr(perceptual, "URLS", {"vgg16": changed.as_uri()})
    with pytest.raises(UserError, match=r"the vgg16 weights could not be fetched .*invalid hash"):
        load_perceptual("vgg16")


def test_real_squeezenet_loads():
    loss = load_perceptual("squeezenet", shared("data", "weights", "squeezenet1_1_features.safetensors"))
    noise = torch.rand(1, 3, 64, 64) * 2 - 1
    assert 0.1 < loss(noise, torch.zeros_like(noise)).item() < 10
