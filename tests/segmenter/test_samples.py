import numpy as np
import torch
from tiny_segmentation import make_recipe

from spadecli.core.recipe_files import load_recipe
from spadecli.segmenter.samples import IGNORED, SegmentationSet, jitter_colors, target_table, whole_pair

COLORS = torch.tensor([(200, 60, 60), (60, 200, 60), (60, 60, 200)]) / 255


def samples(tmp_path, jitter=0.0, **more):
    recipe = load_recipe(make_recipe(tmp_path, **more)).recipe
    return SegmentationSet(tmp_path / "blobs.h5", recipe, (24, 32), seed=3, jitter=jitter)


def test_photo_and_target_are_cut_and_flipped_together(tmp_path):
    dataset = samples(tmp_path)
    for epoch in range(6):
        item = dataset[epoch, 2]
        assert item["photo"].shape == (3, 24, 32)
        assert item["target"].shape == (24, 32)
        nearest = torch.cdist(item["photo"].flatten(1).T, COLORS).argmin(1)
        assert (nearest == item["target"].flatten()).float().mean() > 0.9  # but at edges, where photos blend


def test_a_sample_is_a_function_of_seed_epoch_and_index(tmp_path):
    dataset = samples(tmp_path, jitter=0.2)
    first, again, other = dataset[1, 2], dataset[1, 2], dataset[2, 2]
    assert torch.equal(first["photo"], again["photo"])
    assert not torch.equal(first["photo"], other["photo"])


def test_unknown_pixels_are_ignored(tmp_path):
    dataset = samples(tmp_path, unknown="unseen")
    assert target_table(load_recipe(tmp_path / "blobs.toml").recipe)[3] == IGNORED
    targets = torch.stack([dataset[epoch, 2]["target"] for epoch in range(4)])
    assert set(targets.unique().tolist()) <= {0, 1, 2, IGNORED}
    assert (targets == IGNORED).any()
    _, channels = whole_pair(dataset.packed, 2, (16, 24))
    assert (channels == 3).any()  # scores leave the unknown channel out themselves


def test_colours_move_within_their_range():
    photo = np.random.default_rng(0).random((8, 8, 3), np.float32)
    moved = jitter_colors(photo, 0.2, np.random.default_rng(1))
    assert moved.dtype == np.float32
    assert 0 <= moved.min() <= moved.max() <= 1
    assert np.abs(moved - photo).max() > 0.02
    assert np.allclose(jitter_colors(photo, 0.0, np.random.default_rng(1)), photo, atol=1e-6)
