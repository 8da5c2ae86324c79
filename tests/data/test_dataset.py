"""Training samples: a pure function of (seed, epoch, sample)."""

import numpy as np
import torch
from tiny_training import make_recipe

from spadecli.core.labelspace import LabelSpace
from spadecli.core.recipe_files import load_recipe
from spadecli.data.dataset import StepSampler, TrainingSet
from spadecli.data.packed import create_packed


def test_every_epoch_has_every_sample_once_and_any_step_can_be_resumed_at():
    sampler = StepSampler([2, 3, 5, 7, 11], batch=3, seed=1, first_step=0, steps=5)
    keys = [key for step in sampler for key in step]
    for epoch in range(3):
        assert sorted(i for e, i in keys if e == epoch) == [2, 3, 5, 7, 11]
    assert list(StepSampler([2, 3, 5, 7, 11], 3, 1, 3, 5)) == list(sampler)[3:]
    assert list(StepSampler([2, 3, 5, 7, 11], 3, 2, 0, 5)) != list(sampler)


def test_crop_and_flip_move_mask_photo_and_edges_together(tmp_path):
    path = make_recipe(tmp_path, instances=True)
    labels = LabelSpace(name="tiny", classes=("wall", "window", "door"), instances=True)
    ramp = (np.arange(36)[:, None] * 6 + np.arange(40)[None, :]).astype(np.uint8)
    photo = np.stack([ramp] * 3, -1)
    with create_packed(
        tmp_path / "tiny.h5", 1, True, {"labels": labels.model_dump(mode="json"), "size": [36, 40]}, ""
    ) as w:
        w.add("p", (ramp % 3, (ramp // 16).astype(np.uint32), photo))
        w.finish({})
    recipe = load_recipe(path, ["data.holdout=[]"]).recipe
    dataset = TrainingSet(tmp_path / "tiny.h5", recipe)
    flips = set()
    for epoch in range(20):
        item = dataset[(epoch, 0)]
        values = item["photo"][0].numpy()
        assert np.array_equal(item["channels"].numpy(), values % 3)
        ids = values.astype(int) // 16
        expected = np.zeros_like(values)
        across, down = ids[:, 1:] != ids[:, :-1], ids[1:] != ids[:-1]
        expected[:, 1:] |= across
        expected[:, :-1] |= across
        expected[1:] |= down
        expected[:-1] |= down
        assert np.array_equal(item["edges"].numpy(), expected)
        flips.add(bool(values[0, 0] > values[0, 1]))
        again = dataset[(epoch, 0)]
        assert all(torch.equal(item[k], again[k]) for k in item)
    assert flips == {True, False}


def test_classes_are_mixed_by_seed_epoch_and_sample(tmp_path):
    segmenting = ["discriminator.kind=segmentation", "loss.feature_matching=0"]

    def sides(*overrides: str) -> torch.Tensor:
        dataset = TrainingSet(tmp_path / "tiny.h5", load_recipe(path, [*segmenting, *overrides]).recipe)
        return torch.stack([dataset[(epoch, i)]["from_photo"] for epoch in range(40) for i in range(4)])

    path = make_recipe(tmp_path)
    found = sides()
    assert torch.equal(found, sides("train.num_workers=1"))
    assert not torch.equal(found, sides("train.seed=1"))
    assert found.dtype == torch.bool
    assert found.shape == (160, 3)
    by_epoch = found.view(40, 4, 3)
    assert (by_epoch != by_epoch[:, :1]).any(0)[1:].all()  # samples of an epoch differ
    assert (by_epoch != by_epoch[:1]).any(0).all()  # and epochs of a sample
    assert len(torch.unique(found, dim=0)) == 8
    assert ((found.double().mean(0) - 0.5).abs() < 0.12).all()  # three deviations of the mean of 160
    plain = TrainingSet(tmp_path / "tiny.h5", load_recipe(path).recipe)[(0, 0)]
    unmixed = load_recipe(path, [*segmenting, "discriminator.label_mix=0"]).recipe
    assert plain.keys() == TrainingSet(tmp_path / "tiny.h5", unmixed)[(0, 0)].keys()
    item = TrainingSet(tmp_path / "tiny.h5", load_recipe(path, segmenting).recipe)[(0, 0)]
    assert all(torch.equal(plain[k], item[k]) for k in plain)  # crop, flip and eps are as ever
