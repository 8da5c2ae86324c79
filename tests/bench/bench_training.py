"""Training steps with plain and with fast SPADE layers, compared in one run.

    python tests/bench/bench_training.py [coco|facades] [--batch 2] [--repeats 5] [--threads 2]

Real masks; the forms take turns, and medians are compared. Peak memory is that of a process of its own.
"""

from __future__ import annotations

import argparse
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import shared  # noqa: E402

from spadecli.core.recipe import Recipe, find_recipe, load_recipe  # noqa: E402
from spadecli.data.edges import instance_edges  # noqa: E402
from spadecli.data.masks import (  # noqa: E402
    read_instances,
    read_photo,
    read_pixels,
    resize_codes,
    resize_instances,
    resize_photo,
)
from spadecli.model import losses  # noqa: E402
from spadecli.model.trainer import Trainer  # noqa: E402

FORMS = ("plain", "auto")
Batch = dict[str, torch.Tensor]


def coco(batch: int) -> tuple[dict, Batch]:
    """COCO-Stuff as in the paper (182 classes, unknown, edges; ngf 64, hidden 128) but for the perceptual loss."""
    size = (256, 256)
    labels = {
        "name": "coco-stuff",
        "classes": [*(f"class {i}" for i in range(182)), {"name": "unknown", "value": 255}],
        "unknown": "unknown",
        "instances": True,
    }
    recipe = {
        "name": "coco-stuff",
        "data": {"packed": "none"},
        "labels": labels,
        "loss": {"perceptual_network": "none"},
        "train": {"batch": batch, "steps": 1},
    }
    items = []
    for path in sorted(shared("data", "coco_sample", "train_label").glob("*.png"))[:batch]:
        folder = path.parents[1]
        mask = resize_codes(read_pixels(path).astype(np.uint8), size)
        ids = resize_instances(read_instances(folder / "train_inst" / path.name), size)
        photo = resize_photo(read_photo(folder / "train_img" / f"{path.stem}.jpg"), size)
        items.append((np.where(mask == 255, 182, mask), instance_edges(ids), photo))
    return recipe, as_batch(items)


def facades(batch: int) -> tuple[dict, Batch]:
    """The shipped facades recipe, narrowed to what two CPU cores train in a night."""
    weights = shared("data", "weights", "squeezenet1_1_features.safetensors")
    narrow = ("model.ngf=16", "model.hidden=32", "discriminator.ndf=32", f"loss.perceptual_weights={weights}")
    recipe = load_recipe(find_recipe("facades"), (*narrow, f"train.batch={batch}")).recipe
    items = []
    for path in sorted(shared("data", "facades", "train", "masks").glob("*.png"))[:batch]:
        items.append((read_pixels(path), None, read_photo(path.parents[1] / "photos" / f"{path.stem}.jpg")))
    return recipe.model_dump(), as_batch(items)


def as_batch(items: list) -> Batch:
    channels, edges, photos = zip(*items, strict=True)
    batch = {
        "channels": torch.from_numpy(np.stack(channels)),
        "photo": torch.from_numpy(np.stack(photos).transpose(0, 3, 1, 2).copy()),
        "eps": torch.randn(len(items), 64, generator=torch.Generator().manual_seed(0)),
    }
    if edges[0] is not None:
        batch["edges"] = torch.from_numpy(np.stack(edges))
    return batch


CASES = {"coco": (coco, 2), "facades": (facades, 8)}


def generator_step(trainer: Trainer, batch: Batch) -> None:
    """Forward through generator, discriminator and perceptual network, backward, update."""
    semantic, photo, eps = trainer._to_device(batch)
    loss, weights = torch.zeros(()), trainer.recipe.loss
    with trainer._autocast():
        z, kl = trainer._latent(photo, eps)
        fake = trainer.generator(semantic, z)
        fakes, reals = trainer.discriminator(semantic, fake, photo)
        loss = losses.hinge_generator(fakes) + weights.feature_matching * losses.feature_matching(fakes, reals)
        if trainer.perceptual is not None:
            loss = loss + weights.perceptual * trainer.perceptual(fake, photo)
    parameters = [p for network in trainer._generating() for p in network.parameters()]
    torch.autograd.backward(loss + weights.kl * kl, inputs=parameters)
    trainer._update(trainer.optimizer_g)


def discriminator_step(trainer: Trainer, batch: Batch) -> None:
    """Forward and backward of the discriminator on ready fakes, update."""
    semantic, photo, _ = trainer._to_device(batch)
    with trainer._autocast():
        fakes, reals = trainer.discriminator(semantic, photo.flip(3), photo)
        d_fake, d_real = losses.hinge_discriminator(fakes, reals)
    torch.autograd.backward(d_fake + d_real)
    trainer._update(trainer.optimizer_d)


def whole_step(trainer: Trainer, batch: Batch) -> None:
    """What training does: one forward pass for both steps, and the average of the weights."""
    trainer.step(batch, 1.0)


def make_trainer(recipe: dict, form: str) -> Trainer:
    train = {**recipe["train"], "modulation": form}
    return Trainer(Recipe.model_validate({**recipe, "train": train}), torch.device("cpu"))


def seconds(step: Callable[[Trainer, Batch], None], trainer: Trainer, batch: Batch) -> float:
    start = time.perf_counter()
    step(trainer, batch)
    return time.perf_counter() - start


def compare(case: str, batch_size: int, repeats: int) -> None:
    recipe, batch = CASES[case][0](batch_size)
    trainers = {form: make_trainer(recipe, form) for form in FORMS}
    print(f"{case}, batch {batch_size}, {recipe['train'].get('precision', 'fp32')}")
    print(f"{'':20}{'plain':>10}{'fast':>10}{'ratio':>8}")
    for step in (generator_step, discriminator_step, whole_step):
        times: dict[str, list[float]] = {form: [] for form in FORMS}
        for _ in range(repeats + 1):
            for form, trainer in trainers.items():
                times[form].append(seconds(step, trainer, batch))
        plain, fast = (statistics.median(times[form][1:]) for form in FORMS)  # the first warms up
        print(f"{step.__name__.replace('_', ' '):20}{plain:9.3f}s{fast:9.3f}s{plain / fast:7.2f}x")
    plain, fast = (peak_memory(case, batch_size, form) for form in FORMS)
    print(f"{'peak memory':20}{plain:8.0f}MB{fast:8.0f}MB{plain / fast:7.2f}x\n")


def peak_memory(case: str, batch_size: int, form: str) -> float:
    """Peak resident MB of a process that takes two whole steps."""
    command = [sys.executable, __file__, case, "--batch", str(batch_size), "--memory-of", form]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], default=list(CASES))
    parser.add_argument("--batch", type=int)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory-of", choices=FORMS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory_of:
        recipe, batch = CASES[args.cases[0]][0](args.batch)
        trainer = make_trainer(recipe, args.memory_of)
        for _ in range(2):
            whole_step(trainer, batch)
        # not getrusage, which counts the parent's pages too
        status = Path("/proc/self/status").read_text()
        print(int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024)
        return
    print(
        f"{platform.platform()}, {args.threads} threads; Python {platform.python_version()}, torch {torch.__version__}"
    )
    for case in args.cases:
        compare(case, args.batch or CASES[case][1], args.repeats)


if __name__ == "__main__":
    main()
