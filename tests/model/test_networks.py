"""The networks are the paper's: sizes, parameter counts, arithmetic, and the claims of section 3."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from spadecli.core.architecture import Architecture
from spadecli.model.discriminator import Discriminator
from spadecli.model.encoder import ImageEncoder, add_grid
from spadecli.model.generator import Generator, resize_start
from spadecli.model.init import initialize
from spadecli.model.layers import SpectralConv2d, feature_norm, instance_norm
from spadecli.model.semantic import SemanticMap
from spadecli.model.spade import SPADE

CITYSCAPES = {"size": (256, 512), "upsampling": "more"}
TINY = {"size": (32, 32), "ngf": 2, "z_dim": 4, "hidden": 4}


def semantic(labels: torch.Tensor, num_classes: int, edges: torch.Tensor | None = None) -> SemanticMap:
    return SemanticMap(labels, edges, num_classes)


def random_map(shape: tuple[int, ...], num_classes: int, seed: int = 0) -> SemanticMap:
    return semantic(torch.randint(num_classes, shape, generator=torch.Generator().manual_seed(seed)), num_classes)


def count(module: torch.nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


@pytest.mark.parametrize(
    ("options", "channels", "plain", "vae"),
    [({}, 184, 97.48, 112.63), ({}, 151, 96.49, 111.94), (CITYSCAPES, 36, 93.05, 101.14)],
    ids=["coco", "ade20k", "cityscapes"],
)
def test_parameter_counts_of_the_published_models(options, channels, plain, vae):
    with torch.device("meta"):
        generator = Generator(Architecture(**options), channels, spectral=False)
        arch = Architecture(latent="encoder", **options)
        with_z, encoder = Generator(arch, channels, spectral=False), ImageEncoder(arch, spectral=False)
    assert round(count(generator), 2) == plain
    # published with the encoder's or without, depending on the table; either way the sum is told apart
    assert round(count(with_z), 2) == vae or round(count(with_z) + count(encoder), 2) == vae


@pytest.mark.parametrize(("options", "channels", "giga"), [({}, 184, 191.1), ({}, 151, 181.2), (CITYSCAPES, 36, 281.3)])
def test_multiply_accumulates_of_the_published_models(options, channels, giga):
    arch = Architecture(**options)
    with torch.device("meta"):
        generator = Generator(arch, channels, spectral=False).eval()
        maps = SemanticMap(torch.zeros(1, *arch.size, dtype=torch.long), None, channels)
        counter = FlopCounterMode(display=False)
        with counter:
            generator(maps)
    assert counter.get_total_flops() / 2e9 == pytest.approx(giga, rel=2e-3)


def test_discriminator_size():
    assert count(Discriminator(184)) == pytest.approx(5.90, abs=0.005)


@pytest.mark.parametrize(
    ("options", "grid"),
    [({}, (8, 8)), (CITYSCAPES, (4, 8)), ({"upsampling": "most"}, (2, 2)), ({"size": (128, 192)}, (4, 6))],
)
def test_start_grid(options, grid):
    assert Architecture(**options).start_grid == grid


@pytest.mark.parametrize("upsampling", ["normal", "more", "most"])
@pytest.mark.parametrize("latent", ["map", "noise", "encoder"])
@pytest.mark.parametrize("conditioning", ["spade", "concat"])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_every_form_renders_its_size(upsampling, latent, conditioning, norm):
    arch = Architecture(
        size=(128, 256),
        ngf=2,
        z_dim=4,
        hidden=4,
        upsampling=upsampling,
        latent=latent,
        conditioning=conditioning,
        norm=norm,
    )
    generator = Generator(arch, 5).eval()
    z = torch.randn(2, 4) if arch.uses_z else None
    with torch.no_grad():
        images = generator(random_map((1 if arch.uses_z else 2, 128, 256), 5), z)
    assert images.shape == (2, 3, 128, 256)
    assert images.abs().max() <= 1


def test_samples_of_a_mask_share_it_and_keep_their_order():
    arch = Architecture(latent="noise", **TINY)
    generator = Generator(arch, 6).eval()
    initialize(generator, 1)
    maps = random_map((3, 32, 32), 6)
    z = torch.randn(6, 4)
    with torch.no_grad():
        together = generator(maps, z)
        for mask in range(3):
            for sample in range(2):
                row = mask * 2 + sample
                alone = generator(semantic(maps.channels[mask : mask + 1], 6), z[row : row + 1])
                torch.testing.assert_close(together[row : row + 1], alone, atol=1e-6, rtol=1e-5)


def test_another_size_resizes_the_start_grid_and_folds_into_the_weights():
    small = Architecture(latent="noise", **TINY)
    large = small.model_copy(update={"size": (96, 64)})
    a, b = Generator(small, 6, spectral=False).eval(), Generator(large, 6, spectral=False).eval()
    initialize(a, 3)
    b.load_state_dict(resize_start(a.state_dict(), small, large))
    maps, z = random_map((1, 96, 64), 6), torch.randn(1, 4)
    with torch.no_grad():
        torch.testing.assert_close(a.start(maps, z), b.start(maps, z), atol=1e-6, rtol=1e-5)
        assert b.start(maps, z).shape == (1, 32, 3, 2)


def test_planes_are_one_hot_then_edges():
    labels = torch.tensor([[[0, 2], [1, 1]]])
    planes = semantic(labels, 3, torch.tensor([[[0, 1], [1, 0]]])).planes((2, 2), torch.float32)
    assert planes.tolist() == [[[[1, 0], [0, 0]], [[0, 0], [1, 1]], [[0, 1], [0, 0]], [[0, 1], [1, 0]]]]


@pytest.mark.parametrize("step", [1, 2, 4])
def test_planes_are_floor_nearest(step):
    maps = random_map((2, 16, 24), 4)
    size = (16 // step, 24 // step)
    full = torch.nn.functional.one_hot(maps.channels, 4).permute(0, 3, 1, 2).float()
    expected = torch.nn.functional.interpolate(full, size=size, mode="nearest")
    assert torch.equal(maps.planes(size, torch.float32), expected)


def test_uniform_masks_vanish_in_instance_norm_but_not_in_spade():
    """Section 3.3: convolution and instance norm of a uniform mask give 0 whatever the label."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(4, 8, 3, padding=1, padding_mode="replicate")  # no border effects: uniform stays uniform
    spade = SPADE(8, 4, hidden=16, kernel=3, norm="instance").eval()
    x = torch.randn(1, 8, 16, 16)
    means = []
    for label in range(4):
        maps = semantic(torch.full((1, 16, 16), label), 4)
        plain = torch.nn.functional.instance_norm(conv(maps.planes((16, 16), torch.float32)))
        assert plain.abs().max() < 1e-2
        means.append(spade(x, maps)[:, :, 4:-4, 4:-4].mean().item())
    assert np.ptp(means) > 1e-3


def test_spade_of_a_uniform_map_is_conditional_normalization():
    """Section 3.1: with a spatially uniform map, gamma and beta are one number per channel, borders aside."""
    torch.manual_seed(0)
    spade = SPADE(5, 3, hidden=7, kernel=3, norm="batch")
    gamma, beta = spade.modulation(semantic(torch.full((1, 12, 12), 2), 3), (12, 12), torch.float32)
    for field in (gamma, beta):
        inner = field[:, :, 2:-2, 2:-2]
        assert (inner - inner[:, :, :1, :1]).abs().max() < 1e-6
        assert (field - inner[:, :, :1, :1]).abs().max() > 1e-4  # the borders do differ
    x = torch.randn(4, 5, 12, 12)
    out = spade(x, semantic(torch.full((4, 12, 12), 2), 3))
    normed = torch.nn.functional.batch_norm(x, None, None, training=True)
    expected = normed * (1 + gamma[0, :, 6, 6].view(1, -1, 1, 1)) + beta[0, :, 6, 6].view(1, -1, 1, 1)
    torch.testing.assert_close(out[:, :, 2:-2, 2:-2], expected[:, :, 2:-2, 2:-2], atol=1e-5, rtol=1e-4)


def test_spectral_norm_reaches_the_largest_singular_value():
    conv = SpectralConv2d(6, 9, 3, padding=1)
    conv.power_iteration(200)
    conv.eval()
    largest = torch.linalg.matrix_norm(conv.effective_weight().flatten(1), 2)
    assert largest.item() == pytest.approx(1.0, abs=1e-4)


def test_spectral_norm_moves_in_training_only():
    conv = SpectralConv2d(3, 4, 3)
    before = conv.weight_u.clone()
    conv.eval()
    conv(torch.randn(1, 3, 8, 8))
    assert torch.equal(conv.weight_u, before)
    conv.train()
    conv(torch.randn(1, 3, 8, 8))
    assert not torch.equal(conv.weight_u, before)


def test_initialization_is_xavier_with_separate_halves_and_zero_biases():
    generator = Generator(Architecture(ngf=16), 20, spectral=False)
    initialize(generator, 7)
    norm = generator.blocks[0].norm_0
    fan_in, fan_out = 128 * 9, 256 * 9
    expected = 0.02 * (2 / (fan_in + fan_out)) ** 0.5
    for half in norm.gamma_beta.weight.chunk(2):
        assert half.std().item() == pytest.approx(expected, rel=0.02)
    assert not any(m.bias.any() for m in generator.modules() if hasattr(m, "bias") and m.bias is not None)
    again = Generator(Architecture(ngf=16), 20, spectral=False)
    initialize(again, 7)
    assert torch.equal(generator.conv_img.weight, again.conv_img.weight)


def test_encoder_resizes_to_256_and_gives_z_dim():
    encoder = ImageEncoder(Architecture(ngf=2, z_dim=10, latent="encoder")).eval()
    photos = torch.rand(2, 3, 100, 60) * 2 - 1
    mu, logvar = encoder(photos)
    assert mu.shape == logvar.shape == (2, 10)
    resized = torch.nn.functional.interpolate(photos, (256, 256), mode="bilinear", align_corners=False)
    torch.testing.assert_close(encoder(resized)[0], mu)


def test_encoder_sees_colour_only_with_a_grid():
    torch.manual_seed(0)
    photo = torch.rand(1, 3, 256, 256) - 0.5
    tinted = 0.8 * photo + torch.tensor([0.2, 0.0, -0.2])[None, :, None, None]
    other = torch.rand(1, 3, 16, 16).repeat_interleave(16, 2).repeat_interleave(16, 3) - 0.5

    def moves(grid: int) -> float:
        """How far the tint moves mu, relative to another photo."""
        encoder = ImageEncoder(Architecture(ngf=2, z_dim=10, latent="encoder", encoder_grid=grid)).eval()
        initialize(encoder, 1)
        mu, mu_tinted, mu_other = (encoder(x)[0] for x in (photo, tinted, other))
        return ((mu_tinted - mu).norm() / (mu_other - mu).norm()).item()

    assert moves(0) < 0.1
    assert moves(4) > 0.3


def test_a_grid_added_to_an_encoder_changes_nothing_at_first():
    plain = ImageEncoder(Architecture(ngf=2, z_dim=10, latent="encoder"), spectral=False).eval()
    wide = ImageEncoder(Architecture(ngf=2, z_dim=10, latent="encoder", encoder_grid=4), spectral=False).eval()
    wide.load_state_dict(add_grid(plain.state_dict(), 4))
    photos = torch.rand(2, 3, 100, 60) * 2 - 1
    for a, b in zip(plain(photos), wide(photos), strict=True):
        torch.testing.assert_close(a, b)


def test_discriminator_sees_both_scales_and_both_halves():
    d = Discriminator(4, ndf=4)
    maps = random_map((2, 64, 64), 4)
    fake, real = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    fakes, _ = d(maps, fake, real).maps
    assert [len(m) for m in fakes] == [5, 5]
    assert [tuple(m[-1].shape) for m in fakes] == [(2, 1, 11, 11), (2, 1, 7, 7)]
    d.eval()  # the same u and v in both calls
    _, reals = d(maps, fake, real).maps
    swapped, _ = d(maps, real, fake).maps
    torch.testing.assert_close(swapped[1][-1], reals[1][-1])


@pytest.mark.parametrize("images", [1, 2])
def test_instance_norm_has_the_right_gradient_in_every_layout(images):
    x = torch.randn(images, 4, 16, 16, dtype=torch.float64)
    gradient = torch.randn(images, 4, 16, 16, dtype=torch.float64)
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        for norm in (instance_norm, feature_norm("instance", 4)):
            leaf = x.clone(memory_format=layout).requires_grad_()
            norm(leaf).backward(gradient.contiguous(memory_format=layout))
            found.append(leaf.grad)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])
