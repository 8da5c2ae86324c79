"""Windows in training: exact, complete, and their segments added up as one by one."""

import numpy as np
import pytest
import torch
from conftest import shared

from spadecli.data.masks import read_pixels
from spadecli.windows.find import find_windows
from spadecli.windows.segments import Segments, TrainingWindows


def training_windows(codes, kernel, num_codes):
    return TrainingWindows.build(find_windows(codes.astype(np.int32), kernel), num_codes)


def noise(shape=(2, 9, 12), num_codes=4, seed=0):
    return np.random.default_rng(seed).integers(1, num_codes + 1, shape)


def blocks(shape=(2, 12, 16), num_codes=5, seed=0):
    return noise((shape[0], shape[1] // 4, shape[2] // 4), num_codes, seed).repeat(4, 1).repeat(4, 2)


def surroundings(codes, reach):
    """Every pixel's codes within ``reach``, 0 outside: [M·h·w, (2·reach+1)²]."""
    padded = np.pad(codes, ((0, 0), (reach, reach), (reach, reach)))
    h, w = codes.shape[1:]
    size = range(2 * reach + 1)
    return np.stack([padded[:, i : i + h, j : j + w].ravel() for i in size for j in size], 1)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("codes", [noise(), blocks(), np.full((1, 8, 8), 3)], ids=["noise", "blocks", "uniform"])
def test_pixels_share_a_window_exactly_when_their_surroundings_are_equal(codes, kernel):
    found = training_windows(codes, kernel, 500)
    expected = surroundings(codes, 2 * (kernel // 2))
    assert found.window_of_pixel.max() + 1 == len(np.unique(expected, axis=0))
    _, first = np.unique(found.window_of_pixel.numpy(), return_index=True)
    np.testing.assert_array_equal(expected, expected[first][found.window_of_pixel])


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_windows_and_codes_give_back_the_map(kernel):
    codes = blocks()
    found = training_windows(codes, kernel, 500)
    centre = kernel * kernel // 2
    window = found.windows[found.window_of_pixel]
    held = found.code_rows[window[:, centre] - 1].numpy() - 501 * np.arange(kernel * kernel)
    np.testing.assert_array_equal(held, surroundings(codes, kernel // 2))
    ids = window[:, centre].numpy().reshape(codes.shape)
    np.testing.assert_array_equal(window, surroundings(ids, kernel // 2))


def test_real_masks_have_few_distinct_windows():
    mask = read_pixels(shared("data", "coco_sample", "train_label", "000000017914.png")).astype(np.int64)
    found = training_windows(mask[None] + 1, 3, 500)
    assert found.share < 0.2
    assert training_windows(noise((1, 64, 64), 100), 3, 500).share == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_segments_add_up_what_belongs_to_them(dtype):
    members = np.random.default_rng(0).integers(3, size=5000)
    members[7] = 3  # a segment of one beside segments of many pieces
    order = members.argsort()
    starts = np.searchsorted(members[order], np.arange(4))
    rows = torch.rand(5000, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected = torch.zeros(4, 8, dtype=torch.float64).index_add_(0, torch.from_numpy(members), rows.double())
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 2**-8}[dtype]
    sums = Segments.build(order, starts).sum(rows)
    assert sums.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(sums.double(), expected, rtol=tolerance, atol=0)


def test_segments_may_be_empty():
    segments = Segments.build(np.array([2, 0, 1]), np.array([0, 1, 1, 3, 3]))
    rows = torch.tensor([[1.0], [10.0], [100.0]])
    assert segments.sum(rows).flatten().tolist() == [100, 0, 11, 0, 0]


def test_lengths_are_few_so_that_memory_is_used_again():
    lengths = {len(training_windows(blocks((1, 64, 64), seed=seed), 3, 500).windows) for seed in range(20)}
    assert all(n % 32 == 0 for n in lengths)
