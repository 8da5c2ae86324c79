"""Windows that come with the batch: those a map finds itself, and a loop that asks the device for nothing."""

from functools import partial

import pytest
import torch
from tiny_training import make_recipe
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from spadecli.core.recipe_files import load_recipe
from spadecli.data.dataset import TrainingSet
from spadecli.model import semantic
from spadecli.model.semantic import SemanticMap
from spadecli.training.step import Trainer
from spadecli.windows.collate import BatchWindows, CollateWindows, PartedWindows, collate_for, level_sizes

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SIZES = [(32, 32), (16, 16), (8, 8)]
WAITING = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2", "unique_dim"}


def blocks(seed=0):
    random = torch.Generator().manual_seed(seed)
    return (
        torch.randint(9, (2, 4, 4), generator=random, dtype=torch.uint8).repeat_interleave(8, 1).repeat_interleave(8, 2)
    )


def tiny(tmp_path, *overrides):
    return load_recipe(make_recipe(tmp_path, "noise", instances=True), ("train.modulation=fast", *overrides)).recipe


def loader(recipe, workers=0, device=CPU):
    dataset = TrainingSet(recipe.data.packed, recipe)
    keys = [[(0, 0), (0, 1)], [(0, 2), (0, 3)]]
    return DataLoader(
        dataset,
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=collate_for(recipe, device),
        pin_memory=device.type == "cuda",
    )


@pytest.mark.parametrize("edges", [False, True])
def test_windows_hold_what_a_map_finds_itself(edges):
    channels, marks = blocks(), blocks(1) % 2 if edges else None
    there = BatchWindows.find(channels, marks, 9, SIZES, 3, every=True).to(CPU).by_size()
    itself = SemanticMap(channels.long(), marks, 9, "fast")
    for size in SIZES:
        found, expected = there[size, 3].tensors(), itself.windows(size, 3).tensors()
        assert all(torch.equal(f, e) and f.dtype == torch.int32 for f, e in zip(found, expected, strict=True))


def test_sizes_where_it_is_not_worthwhile_stay_plain():
    channels = blocks()
    found = BatchWindows.find(channels, None, 9, SIZES, 3, every=False).by_size()
    expected = SemanticMap(channels.long(), None, 9, "auto")
    assert [found[s, 3] is None for s in SIZES] == [expected.windows(s, 3) is None for s in SIZES]
    assert found[SIZES[0], 3] is not None
    assert found[SIZES[-1], 3] is None


def test_windows_of_parts_come_apart_as_the_batch_does():
    parts = [BatchWindows.find(blocks()[i : i + 1], None, 9, SIZES, 3, every=True) for i in range(2)]
    assert PartedWindows(parts).tensor_split(2) == parts
    assert parts[0].tensor_split(1) == parts[:1]
    with pytest.raises(ValueError, match="2 parts"):
        PartedWindows(parts).tensor_split(3)


@pytest.mark.parametrize(
    ("modulation", "device", "made"),
    [("plain", CPU, False), ("auto", CPU, True), ("fast", CPU, True), ("auto", CUDA, False), ("fast", CUDA, True)],
)
def test_the_loader_finds_windows_where_they_are_used(tmp_path, modulation, device, made):
    collate = collate_for(tiny(tmp_path, f"train.modulation={modulation}"), device)
    assert isinstance(collate, CollateWindows) == made


def test_levels_are_the_sizes_of_the_generator_s_feature_maps(tmp_path):
    recipe = tiny(tmp_path)
    asked = []
    trainer = Trainer(recipe, CPU)
    for block in trainer.generator.blocks:
        block.register_forward_hook(lambda module, args, out: asked.append(tuple(out.shape[2:])))
    trainer.step(next(iter(loader(recipe))), 1.0)
    assert set(asked) == set(level_sizes(recipe.model))


@pytest.mark.parametrize("workers", [0, 2])
def test_training_with_windows_of_the_loader_is_training_without(tmp_path, workers):
    recipe = tiny(tmp_path)
    trainers = {with_windows: Trainer(recipe, CPU) for with_windows in (True, False)}
    for batch in loader(recipe, workers):
        trainers[True].step(batch, 1.0)
        trainers[False].step({name: value for name, value in batch.items() if name != "windows"}, 1.0)
    for a, b in zip(*(t.generator.parameters() for t in trainers.values()), strict=True):
        assert torch.equal(a, b)


class Refusing(TorchDispatchMode):
    """Raises where a program would wait for its device to hear a number."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__ in WAITING:
            raise AssertionError(f"{function} waits for the device")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_with_windows_asks_the_device_for_nothing(tmp_path, monkeypatch, precision):
    recipe = tiny(tmp_path, f"train.precision={precision}")
    trainer, batch = Trainer(recipe, CPU), next(iter(loader(recipe)))

    def refuse(name, *args, **kwargs):
        raise AssertionError(f"{name} waits for the device")

    monkeypatch.setattr(semantic, "find_windows", partial(refuse, "find_windows"))
    for name in ("cpu", "numpy", "item", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, partial(refuse, name))
    with Refusing():
        trainer.step(batch, 1.0)


@pytest.mark.gpu
@pytest.mark.parametrize("modulation", ["plain", "fast"])
def test_no_step_waits_for_a_cuda_device(tmp_path, modulation):
    recipe = tiny(tmp_path, "train.precision=bf16", f"train.modulation={modulation}")
    trainer = Trainer(recipe, CUDA)
    batches = iter(loader(recipe, device=CUDA))
    trainer.step(next(batches), 1.0)  # the first step chooses algorithms and fills caches
    batch = next(batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.step(batch, 1.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
