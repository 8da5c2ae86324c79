"""The kernels alone, against torch in float64."""

import time

import numpy as np
import pytest
import torch
from bench.bench_render import noise_masks
from conftest import ROOT
from torch.nn import functional as F

from spadecli.backends.torch_backend import TorchBackend
from spadecli.core.architecture import Architecture
from spadecli.core.errors import UserError
from spadecli.cpu.generator import FastGenerator
from spadecli.kernels import native
from spadecli.model.generator import Generator

pytestmark = pytest.mark.skipif(not native.available(), reason="no kernels were compiled")

FACADES = ROOT / "weights" / "facades.safetensors"
# N, C, O, h, w, up: both ways to cut the work (by tiles; by panels, weights transformed piece by piece), more tile
# rows than fit at a time, widths that are cut in parts, and sizes that no tile, panel or vector divides
SHAPES = [
    (1, 3, 5, 1, 1, 1),
    (2, 17, 33, 5, 7, 1),
    (1, 64, 64, 16, 16, 1),
    (1, 40, 300, 9, 30, 2),
    (3, 150, 70, 12, 13, 2),
    (2, 130, 64, 33, 90, 1),
    (1, 256, 128, 34, 34, 2),
]


def case(N, C, outputs, h, w, up):
    """x, weight, bias, rows, row and residual of a call with one mask."""
    random = torch.Generator().manual_seed(0)

    def normal(*size):
        return torch.randn(*size, generator=random)

    x = normal(N, h, w, C).permute(0, 3, 1, 2)
    row = torch.randint(0, 50, (1, h * up, w * up), generator=random, dtype=torch.int32)
    residual = normal(N, h, w, outputs).permute(0, 3, 1, 2)
    return x, normal(outputs, C, 3, 3) / (3 * C**0.5), normal(outputs), normal(50, 2 * C), row, residual


def expected_of(x, weight, bias, rows, row, residual, up):
    scale, shift = rows.double()[row.long()].permute(0, 3, 1, 2).chunk(2, 1)
    x, residual = (F.interpolate(t.double(), scale_factor=up) for t in (x, residual))
    return F.conv2d(F.leaky_relu(x * scale + shift, 0.2), weight.double(), bias.double(), padding=1) + residual


@pytest.mark.parametrize("shape", SHAPES)
def test_the_convolution_modulates_upsamples_and_adds(shape):
    x, weight, bias, rows, row, residual = case(*shape)
    packed, modulation = native.pack(weight.flatten(1).T), native.Modulation(rows, row, shape[-1], 0.2)
    found = native.convolve(x, packed, bias, modulation, residual)
    expected = expected_of(x, weight, bias, rows, row, residual, shape[-1])
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_convolution_without_modulation_takes_both_orders_of_weights(shape):
    x, weight, bias, *_ = case(*shape)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    found = native.convolve(x, native.pack(weight.flatten(1).T), bias)
    by_taps = native.convolve(x, native.pack(weight.permute(2, 3, 1, 0).flatten(0, 2)), bias, by_taps=True)
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()
    assert torch.equal(found, by_taps)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_convolution_gives_the_same_bits_in_any_batch_and_in_place(shape):
    x, weight, bias, rows, row, residual = case(4, *shape[1:])
    packed, modulation = native.pack(weight.flatten(1).T), native.Modulation(rows, row, shape[-1], 0.2)
    together = native.convolve(x, packed, bias, modulation, residual)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(7)
        for n in range(4):
            own = F.interpolate(residual[n : n + 1], scale_factor=shape[-1]).contiguous(
                memory_format=torch.channels_last
            )
            alone = native.convolve(x[n : n + 1], packed, bias, modulation, own, reuse=True)
            assert torch.equal(alone[0], together[n])
            assert alone.data_ptr() == own.data_ptr()
    finally:
        torch.set_num_threads(threads)


def test_the_fast_form_holds_its_weights_once():
    """Winograd's weights are four times as large: they are made where they are used, not kept."""
    arch = Architecture(size=(64, 64), ngf=32, hidden=32, z_dim=8, latent="encoder")
    generator = Generator(arch, 5, spectral=False).eval()
    plain = sum(p.numel() for p in generator.parameters())
    fast = FastGenerator(generator, 4)
    found = [fast.fc.weight, fast.fc.bias, fast.conv_img.weight]
    for block in fast.blocks:
        found += [t.weight for t in (block.conv_0, block.conv_1, block.conv_s, *block.tables.values()) if t]
        found += [t.planes for t in block.tables.values()]
    assert 0.9 * plain < sum(t.numel() for t in found) < 1.1 * plain


@pytest.mark.parametrize("mask", noise_masks(12, False), ids=["noise", "half", "twos", "threes", "fives", "runs"])
def test_no_mask_is_slower_than_in_the_plain_form(mask):
    """Shipped weights, masks where hardly a window repeats. Twice the speed on a quiet machine."""
    mask = mask[0]
    z = np.zeros((1, 64), np.float32)
    with TorchBackend(FACADES, "cpu", "plain") as plain, TorchBackend(FACADES, "cpu", "fast") as fast:
        took = {plain: [], fast: []}
        for _ in range(5):
            for backend, seconds in took.items():
                begun = time.perf_counter()
                backend.run(mask, None, z)
                seconds.append(time.perf_counter() - begun)
    assert min(took[fast]) < min(took[plain]) / 0.95


@pytest.mark.parametrize(("value", "why"), [("v9", "no such build"), ("fast", "no such build"), ("v4", "processor")])
def test_a_build_that_cannot_be_had_is_refused(monkeypatch, value, why):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setenv("SPADE_NATIVE", value)
    with pytest.raises(UserError, match=f"SPADE_NATIVE={value}: .*{why}"):
        native.available()
