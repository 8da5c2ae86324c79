"""A training step never asks the device for a value: the processor runs ahead, and the device is never idle."""

from pathlib import Path

import pytest
import torch
from tiny_training import make_recipe
from torch.utils._python_dispatch import TorchDispatchMode

from spadecli.core.recipe_files import load_recipe
from spadecli.data.dataset import TrainingSet
from spadecli.training.step import Trainer

WAITING = ("_local_scalar_dense", "nonzero", "equal", "unique", "masked_select")


class Refuse(TorchDispatchMode):
    """Fails where an operation's result, or its size, has to be known to the processor."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert not name.startswith(WAITING), f"{name} waits for the device"
        return func(*args, **(kwargs or {}))


def trainer_and_batch(folder: Path, device: str, *overrides: str):
    """What CUDA would do, modulation included."""
    path = make_recipe(folder, instances=True)
    recipe = load_recipe(path, ("train.modulation=plain", "train.batch=4", "train.max_grad_norm=1", *overrides)).recipe
    dataset = TrainingSet(folder / "tiny.h5", recipe)
    place = (0, 0) if recipe.train.window else ()
    items = [dataset[(0, i, *place)] for i in range(4)]
    return Trainer(recipe, torch.device(device)), {k: torch.stack([i[k] for i in items]) for k in items[0]}


def unchecked_one_hot(channels, num_classes):
    """torch's own looks at the values on the CPU, and on CUDA does not."""
    return channels.new_zeros(*channels.shape, num_classes).scatter_(-1, channels[..., None], 1)


OPTIONS = ("discriminator.augment=color,translation,cutout", "train.window=[32,32]", "train.window_share=1")


SEGMENTATION = ("discriminator.kind=segmentation", "loss.feature_matching=0", *OPTIONS[:1])
CASES = {"plain": (), "parts": ("train.accumulate=2",), "options": OPTIONS, "segmentation": SEGMENTATION}


@pytest.mark.parametrize("overrides", CASES.values(), ids=CASES)
def test_a_step_reads_no_value(tmp_path, monkeypatch, overrides):
    trainer, batch = trainer_and_batch(tmp_path, "cpu", *overrides)
    trainer.step(batch, 1.0)  # the optimizers make their state
    for name in ("tolist", "numpy", "cpu", "item", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, lambda *args, n=name: pytest.fail(f"{n} waits for the device"))
    monkeypatch.setattr(torch.nn.functional, "one_hot", unchecked_one_hot)
    with Refuse():
        trainer.step(batch, 0.5)
    monkeypatch.undo()
    with pytest.raises(AssertionError, match="waits for the device"), Refuse():
        trainer.totals[0].item()


@pytest.mark.gpu
@pytest.mark.parametrize("overrides", [(), SEGMENTATION], ids=["patch", "segmentation"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_on_cuda_never_waits(tmp_path, precision, overrides):
    trainer, batch = trainer_and_batch(tmp_path, "cuda", f"train.precision={precision}", *overrides)
    pinned = {name: value.pin_memory() for name, value in batch.items()}
    trainer.step(pinned, 1.0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.step(pinned, 0.5)
    finally:
        torch.cuda.set_sync_debug_mode("default")
