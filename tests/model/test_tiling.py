"""The halo of a tile is as wide as the pixels of the whole take, no wider, and tiles cover the image.

That both forms make the pixels of the whole in tiles is in test_parity.py.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from spadecli.core.architecture import Architecture
from spadecli.model.generator import Generator
from spadecli.model.semantic import SemanticMap
from spadecli.model.tiling import TILE, Tile, Window, find_tiles, halos, whole_tile, why_not_tiled

CLASSES = 6
SMALL = {"size": (64, 64), "ngf": 4, "z_dim": 5, "hidden": 12, "latent": "noise"}


def noise(size: tuple[int, int], num: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Channels int32 and edges uint8 [num,H,W], another label at each pixel: every pixel seen wrongly shows."""
    rng = np.random.default_rng(0)
    return rng.integers(0, CLASSES, (num, *size), np.int32), rng.integers(0, 2, (num, *size), np.uint8)


def blocks_of_labels(size: tuple[int, int], num: int = 1) -> tuple[np.ndarray, np.ndarray]:
    channels, edges = (np.kron(m[:, ::8, ::8], np.ones((1, 8, 8), m.dtype)) for m in noise(size, num))
    return channels, edges


def semantic(channels, edges) -> SemanticMap:
    return SemanticMap(torch.from_numpy(channels).long(), torch.from_numpy(edges), CLASSES)


def make(**options) -> Generator:
    """A generator with visible contrast and batch-norm statistics as they are met."""
    torch.manual_seed(0)
    generator = Generator(Architecture(**{**SMALL, **options}), CLASSES + 1, spectral=False)
    for module in generator.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        side = 6 * generator.arch.stride  # so few cells as at the training size make variances of almost nothing
        generator(semantic(*blocks_of_labels((side, side), 3)), latents(generator.arch, 3))
    return generator.eval()


def latents(arch: Architecture, num: int) -> torch.Tensor | None:
    return torch.randn(num, arch.z_dim) if arch.uses_z else None


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kernel": 1},
        {"kernel": 5},
        {"latent": "map"},
        {"upsampling": "more"},
        {"upsampling": "most", "size": (128, 128)},
        {"conditioning": "concat"},
    ],
    ids=str,
)
@torch.inference_mode()
def test_the_halo_is_wide_enough_and_no_wider(options):
    """In float64, where what rounding does is far below what a pixel too few does."""
    generator = make(**options).double()
    arch = generator.arch
    size = 26 * arch.stride, arch.stride
    labels, z = semantic(*noise(size)), latents(arch, 1)
    start = generator.start(labels, z.double() if z is not None else None)
    whole = generator.from_start(start, labels)
    tile = find_tiles(arch, size, arch.stride)[13]
    assert tile.blocks[0].top > 0
    assert tile.blocks[0].bottom < 26

    def error(tile) -> float:
        return float((generator.from_start(start, labels, tile) - tile.image.of(whole)).abs().max())

    enough = error(tile)
    assert enough < 1e-12
    for i, window in enumerate(tile.blocks):
        pixel = 2 if arch.upsample_before[i] else 1  # of the map before the upsampling
        for narrower in (replace(window, top=window.top + pixel), replace(window, bottom=window.bottom - pixel)):
            windows = (*tile.blocks[:i], narrower, *tile.blocks[i + 1 :])
            assert error(replace(tile, blocks=windows)) > 100 * max(enough, 1e-15), (i, narrower)


def test_halos_of_the_published_settings():
    # from the image: 1 + 2 convolutions + 2 for the labels = 5, up to 6; then half of 3, up to 2, and so on
    assert halos(Architecture()) == (7, 8, 6, 6, 6, 6, 6)
    assert halos(Architecture(conditioning="concat")) == (5, 6, 4, 4, 4, 4, 4)
    assert halos(Architecture(kernel=5))[-1] == 8


def test_tiles_cover_the_image_once_and_are_even():
    arch, size = Architecture(), (1120, 640)
    tiles = find_tiles(arch, size, 512)
    times = np.zeros(size, int)
    for tile in tiles:
        tile.image.of(times)[:] += 1
    assert times.min() == times.max() == 1
    assert {t.image.bottom - t.image.top for t in tiles} == {352, 384}
    assert find_tiles(arch, (512, 512), 512) == [whole_tile(arch, (512, 512))]
    assert whole_tile(arch, (64, 96)).blocks[-1] == Window(0, 0, 64, 96)


def work(arch: Architecture, tiles: list[Tile]) -> int:
    """Products of the 3x3 convolutions in all blocks of the tiles, over 9."""
    total, widths = 0, arch.widths
    for i, (fin, fout) in enumerate(zip([16 * arch.ngf, *widths], widths, strict=False)):
        areas = [(w.bottom - w.top) * (w.right - w.left) for w in (tile.blocks[i] for tile in tiles)]
        total += min(fin, fout) * (fin + fout) * sum(areas)
    return total


def test_tiles_are_little_more_work_than_the_whole():
    arch, size = Architecture(), (4096, 4096)
    assert 1 < work(arch, find_tiles(arch, size, TILE)) / work(arch, [whole_tile(arch, size)]) < 1.6


def test_instance_norm_sees_the_whole_image():
    assert "instance norm" in why_not_tiled(Architecture(norm="instance"))
    assert not why_not_tiled(Architecture(conditioning="concat"))
