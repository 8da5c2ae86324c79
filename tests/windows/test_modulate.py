"""What is particular to SPADE layers by window: norms of every kind, when they are chosen, precision.

That they are the plain layers, with every gradient, is in test_parity.py.
"""

import numpy as np
import pytest
import torch
from conftest import shared

from spadecli.core.architecture import Architecture
from spadecli.data.edges import instance_edges
from spadecli.data.masks import read_instances, read_pixels
from spadecli.model import spade
from spadecli.model.generator import Generator
from spadecli.model.init import initialize
from spadecli.model.semantic import SemanticMap
from spadecli.model.spade import SPADE

Maps = tuple[torch.Tensor, torch.Tensor | None, int]


def made_up(kind: str, edges: bool) -> Maps:
    random = torch.Generator().manual_seed(0)
    shape = (2, 32, 48)
    if kind == "noise":
        channels = torch.randint(9, shape, generator=random)
    else:
        channels = torch.randint(9, (2, 4, 6), generator=random).repeat_interleave(8, 1).repeat_interleave(8, 2)
    return channels, torch.randint(2, shape, generator=random) if edges else None, 9


def coco(size: int = 64) -> Maps:
    """Two masks of COCO-Stuff with their instance edges, sampled down to about ``size``."""
    channels, edges = [], []
    for name in ("000000017914", "000000203744"):
        mask = read_pixels(shared("data", "coco_sample", "train_label", f"{name}.png")).astype(np.int64)
        ids = read_instances(shared("data", "coco_sample", "train_inst", f"{name}.png"))
        step = min(mask.shape) // size
        small = slice(None, step * size, step), slice(None, step * size, step)
        channels.append(np.where(mask == 255, 182, mask)[small])
        edges.append(instance_edges(ids[small]))
    return torch.from_numpy(np.stack(channels)), torch.from_numpy(np.stack(edges)), 183


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny convolutions on several threads wait for each other more than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def layer_results(
    layer: SPADE,
    maps: Maps,
    modulation: str,
    dtype: torch.dtype,
    slope: float = 0.2,
    offset: float = 0,
) -> list:
    """Output, and gradients of input and parameters, for a fixed input and output gradient at half size."""
    channels, edges, num_classes = maps
    semantic = SemanticMap(channels, edges, num_classes, modulation)
    random = torch.Generator().manual_seed(1)
    shape = (len(channels), 6, channels.shape[1] // 2, channels.shape[2] // 2)
    x = torch.randn(shape, generator=random, dtype=torch.float64).add_(offset).to(dtype).requires_grad_()
    layer.zero_grad()
    y = layer(x, semantic, slope)
    y.backward(torch.randn(shape, generator=random, dtype=torch.float64).to(dtype))
    return [y.detach(), x.grad, *(p.grad.clone() for p in layer.parameters())]


def spade_layer(maps: Maps, kernel: int, dtype: torch.dtype, kind: str = "batch") -> SPADE:
    torch.manual_seed(2)
    layer = SPADE(6, maps[2] + (maps[1] is not None), 5, kernel, kind).to(dtype)
    torch.nn.init.normal_(layer.shared.bias)  # relu(bias) is then not zero, as it is outside the map
    return layer


def largest_difference(found: list, expected: list) -> float:
    return max(((f - e).norm() / e.norm()).item() for f, e in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", ["batch", "instance", "a class of its own", "evaluated"])
@pytest.mark.parametrize("slope", [0.2, 1])
def test_any_norm_and_what_it_keeps_are_those_of_the_plain_layer(kind, slope):
    class Own(torch.nn.BatchNorm2d):
        pass

    maps = made_up("blocks", edges=True)
    results, kept = {}, {}
    for modulation in ("fast", "plain"):
        layer = spade_layer(maps, 3, torch.float64, "instance" if kind == "instance" else "batch")
        if kind == "a class of its own":
            layer.norm = Own(6, affine=False).double()
        layer_results(layer, maps, modulation, torch.float64)  # running statistics move twice
        layer.train(kind != "evaluated")
        results[modulation] = layer_results(layer, maps, modulation, torch.float64, slope=slope)
        kept[modulation] = dict(layer.norm.named_buffers())
    assert largest_difference(results["fast"], results["plain"]) < 1e-10
    torch.testing.assert_close(kept["fast"], kept["plain"])


def test_activations_far_from_zero_keep_their_gradients():
    maps = made_up("blocks", edges=False)
    layer = spade_layer(maps, 3, torch.float32)
    found = [layer_results(layer, maps, m, torch.float32, offset=30.0) for m in ("fast", "plain")]
    exact = layer_results(layer.double(), maps, "plain", torch.float64, offset=30.0)
    fast, plain = (largest_difference(f, exact) for f in found)
    assert fast < 3 * plain


def test_auto_takes_the_plain_form_on_noise_and_the_fast_one_on_real_masks():
    noisy = SemanticMap(*made_up("noise", edges=False), "auto")
    assert noisy.windows((32, 48), 3) is None
    assert SemanticMap(*made_up("blocks", edges=False), "auto").windows((32, 48), 3) is not None
    real = SemanticMap(*coco(256), "auto")
    assert real.windows((256, 256), 3) is not None
    assert real.windows((256, 256), 3) is real.windows((256, 256), 3)


def test_auto_weighs_what_a_layer_computes(monkeypatch):
    """Wide layers gain where narrow ones do not."""
    by_window = []
    monkeypatch.setattr(spade, "modulate", lambda x, *rest: by_window.append(x.shape[1]) or x)
    some_noise = torch.where(torch.rand(2, 32, 48, generator=torch.Generator().manual_seed(0)) < 0.04, 1, 0)
    semantic = SemanticMap(some_noise, None, 9, "auto")
    assert 0.1 < semantic.windows((32, 48), 3).share < 0.8
    for channels in (4, 1024):
        SPADE(channels, 9, 5, 3, "batch")(torch.zeros(2, channels, 32, 48), semantic)
    assert by_window == [1024]


def test_a_generator_has_the_same_images_and_gradients():
    channels, edges, num_classes = coco(32)
    arch = Architecture(size=(32, 32), ngf=2, z_dim=8, hidden=8, latent="noise")
    results = {}
    for modulation in ("plain", "fast"):
        generator = Generator(arch, num_classes + 1)
        initialize(generator, 0)
        generator.double()
        z = torch.randn(2, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        image = generator(SemanticMap(channels, edges, num_classes, modulation), z)
        (image * torch.linspace(-1, 1, 32)).sum().backward()
        results[modulation] = [image.detach(), *(p.grad for p in generator.parameters() if p.grad.norm() > 1e-9)]
    assert largest_difference(results["fast"], results["plain"]) < 1e-9


def test_bfloat16_under_autocast_is_as_near_to_float32_as_the_plain_form():
    maps = coco()
    layer = spade_layer(maps, 3, torch.float32)
    exact = layer_results(layer, maps, "plain", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        fast, plain = (layer_results(layer, maps, m, torch.bfloat16) for m in ("fast", "plain"))
    for f, p, e in zip(fast, plain, exact, strict=True):
        assert (f - e).norm() <= 1.5 * (p - e).norm() + 1e-3 * e.norm()
