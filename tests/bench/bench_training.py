"""Training steps with plain and with fast SPADE layers, compared in one run.

    python tests/bench/bench_training.py [coco|noise|facades] [--batch 2] [--repeats 5] [--only whole_step]

On the CPU: real masks, and noise, where the fast form has nothing to gain; the forms take turns, and medians are
compared; peak memory is that of a process of its own. On a CUDA device, where there is one: COCO-Stuff settings in
four forms at batch 8, 16 and 32, with tables made beforehand as the data loader's workers make them.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from spadecli.core.allocator import use_huge_pages  # noqa: E402

use_huge_pages()  # as the train command does, before torch is imported

import numpy as np  # noqa: E402
import torch  # noqa: E402
from conftest import shared  # noqa: E402

from spadecli.core.recipe import Recipe  # noqa: E402
from spadecli.core.recipe_files import find_recipe, load_recipe  # noqa: E402
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
from spadecli.training.step import Trainer  # noqa: E402
from spadecli.windows.collate import CollateWindows  # noqa: E402

Batch = dict[str, Any]


@dataclass(frozen=True)
class Form:
    """How a step is computed. tf32: whether float32 products on a GPU may round their factors to 10 bits."""

    name: str
    modulation: str
    precision: str | None = None  # None is the recipe's own
    tf32: bool = False


CPU_FORMS = (Form("plain", "plain"), Form("fast", "auto"))
GPU_FORMS = (
    Form("plain fp32", "plain", "fp32"),
    Form("plain tf32", "plain", "fp32", tf32=True),
    Form("plain bf16", "plain", "bf16", tf32=True),
    Form("fast bf16", "fast", "bf16", tf32=True),
)
GPU_BATCHES = (8, 16, 32)


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
    files = sorted(shared("data", "coco_sample", "train_label").glob("*.png"))
    for i, path in enumerate((files * batch)[:batch]):
        folder = path.parents[1]
        mask = resize_codes(read_pixels(path).astype(np.uint8), size)
        ids = resize_instances(read_instances(folder / "train_inst" / path.name), size)
        photo = resize_photo(read_photo(folder / "train_img" / f"{path.stem}.jpg"), size)
        mask, edges = np.where(mask == 255, 182, mask), instance_edges(ids)
        # there are fewer files than the largest batch: others come mirrored, then upside down
        turn = (
            slice(None, None, -1 if i // len(files) & 2 else 1),
            slice(None, None, -1 if i // len(files) & 1 else 1),
        )
        items.append((mask[turn], edges[turn], photo[turn]))
    return recipe, as_batch(items)


def noise(batch: int) -> tuple[dict, Batch]:
    """COCO-Stuff's settings with a class drawn for each pixel: no neighbourhood is there twice."""
    recipe, real = coco(batch)
    random = torch.Generator().manual_seed(0)
    real["channels"] = torch.randint(183, real["channels"].shape, generator=random, dtype=torch.uint8)
    return recipe, real


def facades(batch: int) -> tuple[dict, Batch]:
    """The shipped facades recipe, narrowed to what two CPU cores train in a night."""
    weights = shared("data", "weights", "squeezenet1_1_features.safetensors")
    narrow = ("model.ngf=16", "model.hidden=32", "discriminator.ndf=32", f"loss.perceptual_weights={weights}")
    recipe = load_recipe(find_recipe("facades"), (*narrow, f"train.batch={batch}", "train.precision=fp32")).recipe
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


CASES = {"coco": (coco, 1), "noise": (noise, 1), "facades": (facades, 8)}


def generator_step(trainer: Trainer, batch: Batch) -> None:
    """Forward through generator, discriminator and perceptual network, backward, update."""
    semantic, photo, eps = trainer._to_device(batch)
    loss, weights = torch.zeros(()), trainer.recipe.loss
    with trainer._autocast():
        z, kl = trainer._latent(photo, eps)
        fake = trainer.generator(semantic, z)
        fakes, reals = trainer.discriminator(semantic, fake, photo).maps
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
        verdict = trainer.discriminator(semantic, photo.flip(3), photo)
    torch.autograd.backward(verdict.discriminator)
    trainer._update(trainer.optimizer_d)


def whole_step(trainer: Trainer, batch: Batch) -> None:
    """What training does: one forward pass for both steps, and the average of the weights."""
    trainer.step(batch, 1.0)


STEPS = {step.__name__: step for step in (generator_step, discriminator_step, whole_step)}


def make_trainer(recipe: dict, form: Form, device: str = "cpu") -> Trainer:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = form.tf32
    train = {**recipe["train"], "modulation": form.modulation}
    if form.precision:
        train["precision"] = form.precision
    return Trainer(Recipe.model_validate({**recipe, "train": train}), torch.device(device))


def seconds(step: Callable[[Trainer, Batch], None], trainer: Trainer, batch: Batch) -> float:
    start = time.perf_counter()
    step(trainer, batch)
    if trainer.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare_on_cpu(case: str, batch_size: int, repeats: int, only: list[str]) -> None:
    recipe, batch = CASES[case][0](batch_size)
    print(f"{case}, batch {batch_size}, {recipe['train'].get('precision', 'fp32')}, CPU")
    print(f"{'':20}{'plain':>10}{'fast':>10}{'ratio':>8}", flush=True)
    trainers = {form: make_trainer(recipe, form) for form in CPU_FORMS}
    for name, step in STEPS.items():
        if name not in only:
            continue
        times: dict[Form, list[float]] = {form: [] for form in CPU_FORMS}
        for _ in range(repeats + 1):
            for form, trainer in trainers.items():
                times[form].append(seconds(step, trainer, batch))
        plain, fast = (statistics.median(times[form][1:]) for form in CPU_FORMS)  # the first warms up
        print(f"{name.replace('_', ' '):20}{plain:9.3f}s{fast:9.3f}s{plain / fast:7.2f}x", flush=True)
    trainers.clear()
    if "memory" in only:
        plain, fast = (peak_memory(case, batch_size, form) for form in CPU_FORMS)
        print(f"{'peak memory':20}{plain:8.0f}MB{fast:8.0f}MB{plain / fast:7.2f}x", flush=True)
    print()


def peak_memory(case: str, batch_size: int, form: Form) -> float:
    """Peak resident MB of a process that takes two whole steps."""
    command = [sys.executable, __file__, case, "--batch", str(batch_size), "--memory-of", form.name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak_memory(case: str, batch_size: int, form_name: str) -> None:
    recipe, batch = CASES[case][0](batch_size)
    trainer = make_trainer(recipe, next(form for form in CPU_FORMS if form.name == form_name))
    for _ in range(2):
        whole_step(trainer, batch)
    # not getrusage, which counts the parent's pages too
    status = Path("/proc/self/status").read_text()
    print(int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024)


def compare_on_gpu(batch_size: int, repeats: int) -> None:
    recipe, batch = coco(batch_size)
    print(f"coco, batch {batch_size}, {torch.cuda.get_device_name()}")
    print(f"{'':12}{'generator':>12}{'discriminator':>15}{'whole':>10}{'peak memory':>14}")
    for form in GPU_FORMS:
        trainer = make_trainer(recipe, form, "cuda")
        ready = dict(batch)
        if form.modulation == "fast":
            collate = CollateWindows(trainer.recipe)
            start = time.perf_counter()
            ready["tables"] = collate.tables(batch)
            made = time.perf_counter() - start
        ready = {name: value.pin_memory() for name, value in ready.items()}
        torch.cuda.reset_peak_memory_stats()
        medians = []
        for step in STEPS.values():
            times = [seconds(step, trainer, ready) for _ in range(repeats + 3)]
            medians.append(statistics.median(times[3:]))  # the first ones choose algorithms
        peak = torch.cuda.max_memory_allocated() / 2**20
        print(f"{form.name:12}{medians[0]:11.4f}s{medians[1]:14.4f}s{medians[2]:9.4f}s{peak:12.0f}MB", flush=True)
        del trainer
        torch.cuda.empty_cache()
    print(f"tables of a batch: {made:.3f} s of one core, beside the loop\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], default=list(CASES))
    parser.add_argument("--batch", type=int)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="+", choices=[*STEPS, "memory"], default=[*STEPS, "memory"])
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    if args.memory_of:
        print_peak_memory(args.cases[0], args.batch, args.memory_of)
        return
    python = platform.python_version()
    print(f"{platform.platform()}, {args.threads} threads; Python {python}, torch {torch.__version__}")
    for case in args.cases:
        compare_on_cpu(case, args.batch or CASES[case][1], args.repeats, args.only)
    if torch.cuda.is_available():
        for batch_size in GPU_BATCHES:
            compare_on_gpu(batch_size, args.repeats)
    else:
        print("there is no CUDA device here, so there are no GPU rows")


if __name__ == "__main__":
    main()
