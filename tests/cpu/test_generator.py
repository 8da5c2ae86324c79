"""What is particular to the inference form: its precision, batches, memory, CUDA.

That it is the plain form's function is in tests/model/test_parity.py.
"""

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


def plain(**options) -> Generator:
    """A generator with visible contrast and batch-norm statistics as they are met, of an architecture near SMALL."""
    torch.manual_seed(0)
    generator = Generator(Architecture(**{**SMALL, **options}), CLASSES + 1, spectral=False)
    for module in generator.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    # enough maps that no channel's variance is small by chance: rounding would come out many times as large
    with torch.no_grad():
        generator(semantic(*masks("drawn", 12, generator.arch.size)), torch.randn(12, generator.arch.z_dim))
    return generator.eval()


def masks(kind: str, num: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Channels int32 and edges uint8 [num,H,W] of one kind of mask."""
    if kind == "real":
        files = sorted(shared("data", "facades", "train", "masks").glob("*.png"))[:num]
        pixels = [np.array(Image.open(f).resize(size[::-1], Image.Resampling.NEAREST)) for f in files]
        channels = np.stack(pixels).astype(np.int32) % CLASSES
    else:
        rng, channels = np.random.default_rng(num), np.zeros((num, *size), np.int32)
        for mask in channels:
            for _ in range(12):
                top, left = rng.integers(0, size[0]), rng.integers(0, size[1])
                mask[top : top + rng.integers(1, 30), left : left + rng.integers(1, 30)] = rng.integers(0, CLASSES)
    return channels, instance_edges(channels)


def semantic(channels, edges) -> SemanticMap:
    return SemanticMap(torch.from_numpy(channels).long(), torch.from_numpy(edges), CLASSES)


def test_it_is_as_near_to_float64_as_the_plain_form(kernels):
    generator = plain(ngf=32, hidden=64)
    channels, edges = masks("real", 2, (64, 64))
    z = torch.randn(2, generator.arch.z_dim)
    with torch.inference_mode():
        exact = copy.deepcopy(generator).double()(semantic(channels, edges), z.double())
        own = (generator(semantic(channels, edges), z) - exact).abs().max()
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
        expected = generator(semantic(channels, edges), z)
        fast = FastGenerator(copy.deepcopy(generator), CLASSES, torch.device("cuda"), dtype)
        found = fast(label_codes(channels, edges), z.cuda()).float().cpu()
    assert (found - expected).abs().max() < (2e-3 if dtype == torch.float32 else 0.1)
