"""A recipe so small that a training run takes a second, with its packed data."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from spadecli.commands.train.command import TrainOptions
from spadecli.core.labelspace import LabelSpace
from spadecli.data.packed import create_packed

RECIPE = """
name = "tiny"
[data]
packed = "{packed}"
load_size = {load_size}
holdout = ["p3"]
[labels]
name = "tiny"
classes = ["wall", "window", "door"]
instances = {instances}
[model]
size = {size}
ngf = 2
z_dim = 4
hidden = 4
latent = "{latent}"
[discriminator]
ndf = 2
[loss]
perceptual_network = "none"
[train]
batch = 2
steps = 6
num_workers = 0
log_every = 2
sample_every = 3
checkpoint_every = 2
"""


def make_recipe(folder: Path, latent: str = "encoder", instances: bool = False, pairs: int = 5, scale: int = 1) -> Path:
    """A recipe and its packed data: random pairs p0, p1, ... ``scale``: width of the first feature map."""
    h, w = 36 * scale, 40 * scale
    labels = LabelSpace(name="tiny", classes=("wall", "window", "door"), instances=instances)
    rng = np.random.default_rng(1)
    config = {"labels": labels.model_dump(mode="json"), "size": [h, w]}
    with create_packed(folder / "tiny.h5", pairs, instances, config, "source") as writer:
        for i in range(pairs):
            ids = rng.integers(0, 9, (h, w), np.uint32) if instances else None
            codes = rng.integers(0, 3, (h, w), np.uint8)
            writer.add(f"p{i}", (codes, ids, rng.integers(0, 256, (h, w, 3), np.uint8)))
        writer.finish({})
    path = folder / "tiny.toml"
    sizes = {"load_size": [h, w], "size": [32 * scale] * 2}
    flags = {"latent": latent, "instances": str(instances).lower()}
    path.write_text(RECIPE.format(packed=folder / "tiny.h5", **flags, **sizes))
    return path


def options(recipe: Path, runs: Path, *overrides: str, **more) -> TrainOptions:
    return TrainOptions(recipe=str(recipe), runs_dir=runs, device="cpu", overrides=overrides, **more)


def assert_same_weights(a: Path, b: Path) -> None:
    first, second = load_file(a), load_file(b)
    assert first.keys() == second.keys()
    different = [n for n in first if not torch.equal(first[n], second[n])]
    assert not different
