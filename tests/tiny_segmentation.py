"""Pairs whose classes a pixel's colour gives away, and a recipe for them: a segmenter learns them in seconds."""

from pathlib import Path

import numpy as np

from spadecli.commands.train_segmenter.command import TrainSegmenterOptions
from spadecli.core.labelspace import LabelSpace
from spadecli.data.packed import create_packed

NAMES = ("red", "green", "blue", "unseen")
COLORS = np.array([(200, 60, 60), (60, 200, 60), (60, 60, 200), (128, 128, 128)])
SIZE = (32, 48)

RECIPE = """
name = "blobs"
[data]
packed = "{packed}"
load_size = [32, 48]
holdout = {holdout}
source = "made up"
licence = "none needed"
[labels]
name = "blobs"
classes = ["red", "green", "blue", "unseen"]
{unknown}
[model]
size = [32, 32]
[train]
batch = 4
steps = 1
num_workers = 0
"""


def pictures(count: int, seed: int = 0, hidden: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Photos uint8 [N,H,W,3] and channels uint8 [N,H,W]: blocks of three colours, noisy; ``hidden``: some unknown."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 3, (count, SIZE[0] // 16, SIZE[1] // 16), np.uint8)
    channels = coarse.repeat(16, 1).repeat(16, 2)
    if hidden:
        channels[:, :4] = 3
    noise = rng.normal(0, 12, (*channels.shape, 3))
    return (COLORS[channels] + noise).clip(0, 255).astype(np.uint8), channels


def make_packed(path: Path, labels: LabelSpace, count: int, prefix: str = "p", seed: int = 0) -> Path:
    photos, channels = pictures(count, seed, hidden=labels.unknown is not None)
    config = {"labels": labels.model_dump(mode="json"), "size": list(SIZE)}
    with create_packed(path, count, False, config, "source") as writer:
        for i in range(count):
            writer.add(f"{prefix}{i:02d}", (labels.channel_to_code[channels[i]], None, photos[i]))
        writer.finish({})
    return path


def make_recipe(folder: Path, count: int = 12, holdout: tuple[str, ...] = ("p03", "p07"), unknown: str = "") -> Path:
    """A recipe file and its packed data."""
    labels = LabelSpace(name="blobs", classes=NAMES, unknown=unknown or None)
    packed = make_packed(folder / "blobs.h5", labels, count)
    path = folder / "blobs.toml"
    line = f'unknown = "{unknown}"' if unknown else ""
    path.write_text(RECIPE.format(packed=packed, holdout=list(holdout), unknown=line))
    return path


def options(recipe: Path, **more) -> TrainSegmenterOptions:
    defaults = {
        "out": recipe.parent / "run",
        "steps": 40,
        "width": 4,
        "batch": 4,
        "device": "cpu",
        "lr": 2e-2,
        "jitter": 0.05,
        "coarse_share": 0.0,
    }
    return TrainSegmenterOptions(recipe=str(recipe), **{**defaults, **more})
