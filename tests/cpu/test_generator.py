"""The inference form is the plain form's function: on real, drawn and noise masks, for every architecture."""

import copy

import numpy as np
import pytest
import torch
from conftest import shared
from PIL import Image

from spadecli.core.architecture import Architecture
from spadecli.cpu.generator import FastGenerator, why_not_fast
from spadecli.data.edges import instance_edges
from spadecli.kernels import native
from spadecli.model.generator import Generator
from spadecli.model.semantic import SemanticMap
from spadecli.windows.find import label_codes

CLASSES = 6
SMALL = {"size": (64, 64), "ngf": 4, "z_dim": 5, "hidden": 12, "latent": "noise"}


@pytest.fixture(params=["kernels", "torch"])
def kernels(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setenv("SPADE_NATIVE", "0")
    elif not native.available():
        pytest.skip("no kernels were compiled")
    return request.param


def plain(edges=True, seed=0, **options) -> Generator:
    """A generator with visible contrast and batch-norm statistics as they are met, of an architecture near SMALL."""
    torch.manual_seed(seed)
    generator = Generator(Architecture(**{**SMALL, **options}), CLASSES + edges, spectral=False)
    for module in generator.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    # enough maps that no channel's variance is small by chance: rounding would come out many times as large
    z = torch.randn(12, generator.arch.z_dim) if generator.arch.uses_z else None
    with torch.no_grad():
        generator(semantic(*masks("drawn", 12, generator.arch.size), edges), z)
    return generator.eval()


def masks(kind: str, num: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Channels int32 and edges uint8 [num,H,W] of one kind of mask."""
    rng = np.random.default_rng(num)
    if kind == "noise":
        return rng.integers(0, CLASSES, (num, *size), np.int32), rng.integers(0, 2, (num, *size), np.uint8)
    if kind == "even":
        return np.full((num, *size), 2, np.int32), np.zeros((num, *size), np.uint8)
    if kind == "real":
        files = sorted(shared("data", "facades", "train", "masks").glob("*.png"))[:num]
        pixels = [np.array(Image.open(f).resize(size[::-1], Image.Resampling.NEAREST)) for f in files]
        channels = np.stack(pixels).astype(np.int32) % CLASSES
    else:
        channels = np.zeros((num, *size), np.int32)
        for mask in channels:
            for _ in range(12):
                top, left = rng.integers(0, size[0]), rng.integers(0, size[1])
                mask[top : top + rng.integers(1, 30), left : left + rng.integers(1, 30)] = rng.integers(0, CLASSES)
    return channels, np.stack([instance_edges(c.astype(np.uint16)) for c in channels])


def semantic(channels, edges, has_edges) -> SemanticMap:
    planes = torch.from_numpy(edges) if has_edges else None
    return SemanticMap(torch.from_numpy(channels).long(), planes, CLASSES)


def latents(generator: Generator, num: int) -> torch.Tensor | None:
    random = torch.Generator().manual_seed(1)
    return torch.randn(num, generator.arch.z_dim, generator=random) if generator.arch.uses_z else None


@torch.inference_mode()
def in_float64(generator: Generator, channels, edges, has_edges, samples) -> torch.Tensor:
    z = latents(generator, len(channels) * samples)
    exact = copy.deepcopy(generator).double()
    return exact(semantic(channels, edges, has_edges), z.double() if z is not None else None)


@torch.inference_mode()
def both(generator: Generator, channels, edges, has_edges=True, samples=1, **options) -> tuple[torch.Tensor, ...]:
    z = latents(generator, len(channels) * samples)
    expected = generator(semantic(channels, edges, has_edges), z)
    fast = FastGenerator(copy.deepcopy(generator), CLASSES, **options)
    return expected, fast(label_codes(channels, edges if has_edges else None), z)


@pytest.mark.parametrize("kind", ["real", "drawn", "noise", "even"])
@pytest.mark.parametrize(("num", "samples"), [(1, 1), (1, 3), (2, 2)])
def test_it_equals_the_plain_form_on_every_kind_of_mask(kernels, kind, num, samples):
    expected, found = both(plain(), *masks(kind, num, (64, 64)), samples=samples)
    assert expected.std() > 0.05
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 5e-5


@pytest.mark.parametrize(
    "options",
    [
        {"kernel": 1},
        {"kernel": 5},
        {"norm": "instance"},
        {"latent": "map"},
        {"latent": "encoder", "upsampling": "more"},
        {"upsampling": "most", "size": (128, 128)},
        {"size": (32, 96)},
        {"ngf": 5, "hidden": 7},
        {"ngf": 16, "hidden": 128},
    ],
)
@pytest.mark.parametrize("edges", [True, False])
def test_it_equals_the_plain_form_for_every_architecture(kernels, options, edges):
    generator = plain(edges, **options)
    samples = 2 if generator.arch.uses_z else 1
    drawn = masks("drawn", 1, generator.arch.size)
    expected, found = both(generator, *drawn, edges, samples)
    exact = in_float64(generator, *drawn, edges, samples)
    own = (expected - exact).abs().max()
    assert own < 2e-5
    assert (found - exact).abs().max() < max(3e-5, 3 * own)
    assert (found - expected).abs().max() < 5e-5


@pytest.mark.parametrize("size", [(32, 32), (96, 64), (160, 224)])
def test_it_equals_the_plain_form_at_sizes_that_were_not_trained(kernels, size):
    expected, found = both(plain(), *masks("drawn", 1, size))
    assert (found - expected).abs().max() < 5e-5


def test_it_is_as_near_to_float64_as_the_plain_form(kernels):
    generator = plain(ngf=32, hidden=64)
    channels, edges = masks("real", 2, (64, 64))
    z = torch.randn(2, generator.arch.z_dim)
    with torch.inference_mode():
        exact = copy.deepcopy(generator).double()(semantic(channels, edges, True), z.double())
        own = (generator(semantic(channels, edges, True), z) - exact).abs().max()
        found = FastGenerator(copy.deepcopy(generator), CLASSES)(label_codes(channels, edges), z)
    assert (found - exact).abs().max() <= max(3e-5, 3 * own)


def test_an_image_does_not_depend_on_its_batch_or_on_the_threads():
    if not native.available():
        pytest.skip("no kernels were compiled")
    generator, (channels, edges) = plain(ngf=16), masks("real", 3, (64, 64))
    codes, z = label_codes(channels, edges), torch.randn(6, 5)
    fast = FastGenerator(generator, CLASSES)
    threads = torch.get_num_threads()
    try:
        with torch.inference_mode():
            torch.set_num_threads(2)
            together = fast(codes[1:2], z)
            torch.set_num_threads(1)
            alone = fast(codes[1:2], z[4:5])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(together[4], alone[0])


def test_a_window_of_a_map_gives_the_middle_of_the_whole(kernels):
    """What tiles are made of: away from its border a window of the map gives the whole map's pixels."""
    generator, (channels, edges) = plain(upsampling="normal"), masks("drawn", 1, (640, 64))
    fast, z = FastGenerator(copy.deepcopy(generator), CLASSES), torch.randn(1, 5)
    codes = label_codes(channels, edges)
    with torch.inference_mode():
        whole, start = fast(codes, z), fast.start(codes, z)
        part = fast.from_start(start[:, :, 4:], codes[:, 128:])
    assert (part[:, :, 320:] - whole[:, :, 448:]).abs().max() < 5e-5
    assert (part[:, :, :64] - whole[:, :, 128:192]).abs().max() > 1e-4  # the border is seen


def test_bf16_is_near(kernels):
    expected, found = both(plain(), *masks("drawn", 1, (64, 64)), dtype=torch.bfloat16)
    error = (found.float() - expected).square().mean()
    assert 10 * torch.log10(4 / error) > 30
    assert error > 1e-8  # it is another precision


def test_norms_that_do_not_see_the_map_have_no_fast_form():
    assert "concat" in why_not_fast(Generator(Architecture(**SMALL, conditioning="concat"), CLASSES))
    assert not why_not_fast(Generator(Architecture(**SMALL), CLASSES))


def test_it_takes_the_weights_out_of_the_plain_form():
    generator = plain()
    FastGenerator(generator, CLASSES)
    assert not any(p.numel() for p in generator.blocks.parameters())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_equals_the_plain_form_on_cuda(dtype):
    generator, (channels, edges) = plain(), masks("drawn", 2, (64, 64))
    z = torch.randn(4, 5)
    with torch.inference_mode():
        expected = generator(semantic(channels, edges, True), z)
        fast = FastGenerator(copy.deepcopy(generator), CLASSES, torch.device("cuda"), dtype)
        found = fast(label_codes(channels, edges), z.cuda()).float().cpu()
    assert (found - expected).abs().max() < (2e-3 if dtype == torch.float32 else 0.1)
