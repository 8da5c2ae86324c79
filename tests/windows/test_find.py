import numpy as np
import pytest
import torch

from spadecli.kernels import native
from spadecli.windows.find import find_windows, label_codes


@pytest.fixture(params=["kernels", "numpy"])
def kernels(request, monkeypatch):
    if request.param == "numpy":
        monkeypatch.setenv("SPADE_NATIVE", "0")
    elif not native.available():
        pytest.skip("no kernels were compiled")


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 7, 5), (1, 40, 90)])
@pytest.mark.parametrize("values", [1, 3, 100_000])
def test_they_give_back_every_window_of_the_map(kernels, kernel, shape, values):
    codes = np.random.default_rng(0).integers(1, values + 1, shape, np.int32)
    found = find_windows(codes, kernel)
    half = kernel // 2
    outside = np.zeros((1, kernel * kernel), np.int32)
    # the window of each pixel, spelt out in codes
    spelt = np.concatenate([outside, found.patches.numpy()])[found.windows.numpy()][found.window_of_pixel.numpy()]
    padded = np.pad(codes, ((0, 0), (2 * half, 2 * half), (2 * half, 2 * half)))
    _, height, width = shape
    for dy in range(kernel):
        for dx in range(kernel):
            for ey in range(kernel):
                for ex in range(kernel):
                    expected = padded[:, dy + ey : dy + ey + height, dx + ex : dx + ex + width].copy()
                    # a patch around a pixel outside the map is 0 as a whole
                    y, x = np.arange(height)[:, None] + dy - half, np.arange(width) + dx - half
                    expected[:, ~((y >= 0) & (y < height) & (x >= 0) & (x < width))] = 0
                    np.testing.assert_array_equal(spelt[..., dy * kernel + dx, ey * kernel + ex], expected)


def test_each_window_is_held_once(kernels):
    found = find_windows(np.random.default_rng(0).integers(1, 3, (2, 10, 30), np.int32).repeat(3, 2).repeat(3, 1), 3)
    assert not found.every_pixel
    for table in (found.patches, found.windows):
        assert len(torch.unique(table, dim=0)) == len(table)
    assert found.patches.dtype == found.windows.dtype == found.window_of_pixel.dtype == torch.int32


def test_noise_is_not_searched_for_windows_that_repeat(kernels):
    codes = np.random.default_rng(0).integers(1, 9, (2, 12, 20), np.int32)
    assert not find_windows(codes, 3).every_pixel
    found = find_windows(codes, 3, search_noise=False)
    assert found.every_pixel
    assert len(found.patches) == len(found.windows) == codes.size
    assert found.window_of_pixel.flatten().tolist() == list(range(codes.size))


def test_codes_tell_class_and_edge():
    channels, edges = np.array([0, 0, 3], np.int32), np.array([0, 1, 1], np.uint8)
    np.testing.assert_array_equal(label_codes(channels, None), [1, 1, 4])
    np.testing.assert_array_equal(label_codes(channels, edges), [1, 2, 8])
