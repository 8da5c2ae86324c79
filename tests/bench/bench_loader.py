"""Whether data loading keeps up with training: samples a second, made and used, in one run.

    python tests/bench/bench_loader.py [facades|coco-stuff] [--seconds 10] [--steps 4]

Synthetic pairs at the recipe's sizes (60 boxes of random classes, noise photographs): reading, crop, flip and edges
cost what real ones cost. "one worker makes" is a loader with one worker process and nothing else to do; "a step uses"
is the trainer on ready batches. A device is fed where workers x one worker exceeds what a step uses.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from spadecli.core.recipe import Recipe  # noqa: E402
from spadecli.core.recipe_files import find_recipe, load_recipe  # noqa: E402
from spadecli.data.dataset import TrainingSet  # noqa: E402
from spadecli.data.packed import create_packed  # noqa: E402
from spadecli.training.run import _loader  # noqa: E402
from spadecli.training.step import Trainer  # noqa: E402

PAIRS = 64
BATCH = 4


def pack(path: Path, recipe: Recipe) -> None:
    """Random boxes as masks and instances, noise as photographs."""
    labels, (h, w) = recipe.labels, recipe.data.load_size
    config = {"labels": labels.model_dump(mode="json"), "size": [h, w]}
    random = np.random.default_rng(0)
    codes_known = np.flatnonzero(labels.code_to_channel >= 0).astype(np.uint8)
    with create_packed(path, PAIRS, labels.instances, config, "synthetic") as writer:
        for i in range(PAIRS):
            codes, ids = np.zeros((h, w), np.uint8), np.zeros((h, w), np.uint32)
            for box in range(60):
                y, x = random.integers(h), random.integers(w)
                window = (slice(y, y + h // 4), slice(x, x + w // 4))
                codes[window], ids[window] = random.choice(codes_known), box
            photo = random.integers(0, 256, (h, w, 3), np.uint8)
            writer.add(f"p{i:03}", (codes, ids if labels.instances else None, photo))
        writer.finish({})


def made(trainer: Trainer, dataset: TrainingSet, seconds: float) -> float:
    """Samples a second of a loader with the recipe's workers, after its first batches."""
    count, start = 0, 0.0
    for i, batch in enumerate(_loader(dataset, range(PAIRS), trainer, 0, 10**6)):
        if i == 8:  # the queue of ready batches is drained
            start = time.perf_counter()
        elif i > 8:
            count += len(batch["eps"])
            if time.perf_counter() - start > seconds:
                break
    return count / (time.perf_counter() - start)


def used(trainer: Trainer, dataset: TrainingSet, steps: int) -> float:
    """Samples a second of training on batches that are there already."""
    batches = [b for b, _ in zip(_loader(dataset, range(PAIRS), trainer, 0, steps + 1), range(steps + 1), strict=False)]
    times = []
    for batch in batches:
        start = time.perf_counter()
        trainer.step(batch, 1.0)
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return trainer.recipe.train.batch / statistics.median(times[1:])


def measure(name: str, folder: Path, seconds: float, steps: int) -> None:
    base = load_recipe(find_recipe(name)).recipe
    packed = folder / f"{name}.h5"
    pack(packed, base)
    settings = [f"data.packed={packed}", "data.holdout=[]", "loss.perceptual_network=none", f"train.batch={BATCH}"]
    recipe = load_recipe(find_recipe(name), [*settings, "train.num_workers=1", "train.precision=fp32"]).recipe
    dataset = TrainingSet(packed, recipe)
    trainer = Trainer(recipe, torch.device("cpu"))
    print(f"{name}, {recipe.model.size[0]}x{recipe.model.size[1]}, batch {BATCH}, no perceptual loss")
    print(f"  one worker makes    {made(trainer, dataset, seconds):8.1f} samples/s")
    print(f"  a step uses, CPU    {used(trainer, dataset, steps):8.2f} samples/s")
    if not torch.cuda.is_available():
        return
    for precision in ("fp32", "bf16"):
        faster = load_recipe(find_recipe(name), [*settings, f"train.precision={precision}"]).recipe
        rate = used(Trainer(faster, torch.device("cuda")), dataset, 4 * steps)
        print(f"  a step uses, {torch.cuda.get_device_name()} {precision} {rate:8.1f} samples/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=["facades", "coco-stuff"])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--steps", type=int, default=4)
    args = parser.parse_args()
    print(
        f"{platform.platform()}, {os.cpu_count()} cores; Python {platform.python_version()}, torch {torch.__version__}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name in args.recipes:
            measure(name, Path(folder), args.seconds, args.steps)


if __name__ == "__main__":
    main()
