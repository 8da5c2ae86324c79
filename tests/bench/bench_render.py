"""Rendering with the plain and with the fast form, compared in one run. `make bench` calls it.

    python tests/bench/bench_render.py [CASE ...] [--masks 13] [--repeats 2] [--threads 2]

networks (default settings: random weights with batch-norm statistics as they are met; real masks):
    coco        COCO-Stuff, 256x256: fast with kernels, fast with torch alone, bf16; 1 and 4 samples a mask
    cityscapes  Cityscapes, 256x512, with the labels of the same masks mapped into its range
    facades     the shipped weights
    noise       the worst masks there are: no neighbourhood twice, in all of the mask or half of it
    threads     coco with 1 and with 2 threads
    precision   largest differences from the plain form, and of both from a run in float64
    memory      peak resident memory of a process that renders
whole command:
    command     `spade render` against the backend's own calls, COCO-Stuff settings, --command-masks 200
    command-facades  the same with the shipped weights
    thousand    1,000 masks with the shipped weights, once
    startup     seconds from `import torch` done to the first image
on a CUDA device, only where it is named:
    gpu         coco in calls of 1, 8 and 32 masks: plain fp32 with TF32 off, with it on, plain bf16, fast fp32 and bf16

The forms take turns, mask by mask; sums over the masks of the medians are compared. Samples of the plain form are
rendered one at a time, as "four single images".

One file, since all cases share the comparison and its table.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

THREADS = os.environ.get("OMP_NUM_THREADS")
from conftest import shared  # noqa: E402

from spadecli.backends.base import Backend  # noqa: E402
from spadecli.backends.torch_backend import TorchBackend  # noqa: E402
from spadecli.core.architecture import Architecture  # noqa: E402
from spadecli.core.labelspace import LabelSpace  # noqa: E402
from spadecli.data.edges import instance_edges  # noqa: E402
from spadecli.data.masks import read_instances, read_pixels, resize_codes, resize_instances  # noqa: E402
from spadecli.kernels import native  # noqa: E402
from spadecli.model.encoder import ImageEncoder  # noqa: E402
from spadecli.model.generator import Generator  # noqa: E402
from spadecli.model.semantic import SemanticMap  # noqa: E402
from spadecli.weights.card import Card  # noqa: E402
from spadecli.weights.file import folded_state_dict, load_weights, save_weights  # noqa: E402

Mask = tuple[np.ndarray, np.ndarray | None]
FACADES = ROOT / "weights" / "facades.safetensors"
SETTINGS = {
    "coco": (Architecture(latent="encoder"), 182),
    "cityscapes": (Architecture(size=(256, 512), upsampling="more", latent="encoder"), 34),
}


def real_masks(size: tuple[int, int], classes: int) -> list[Mask]:
    """Label codes uint8 [1,H,W] (below ``classes``, or 255) and edges of the COCO-Stuff sample."""
    masks = []
    for path in sorted(shared("data", "coco_sample", "train_label").glob("*.png")):
        codes = resize_codes(read_pixels(path).astype(np.uint8), size)
        codes = np.where(codes == 255, 255, codes % classes).astype(np.uint8)
        ids = resize_instances(read_instances(path.parents[1] / "train_inst" / path.name), size)
        masks.append((codes[None], instance_edges(ids)[None]))
    return masks


def facade_masks() -> list[Mask]:
    files = sorted(shared("data", "facades", "train", "masks").glob("*.png"))[:13]
    return [(read_pixels(path).astype(np.uint8)[None], None) for path in files]


def noise_masks(classes: int, instances: bool) -> list[Mask]:
    """Noise all over, in half of the mask, in squares of 2, 3 and 5 pixels, and in runs along each line."""
    rng = np.random.default_rng(0)
    whole = rng.integers(0, classes, (1, 256, 256), np.uint8)
    half = whole.copy()
    half[:, 128:] = 1
    coarse = [whole[:, ::n, ::n].repeat(n, 1).repeat(n, 2)[:, :256, :256] for n in (2, 3, 5)]
    starts = np.where(rng.random(whole.shape) < 0.4, np.arange(256), 0)
    runs = np.take_along_axis(whole, np.maximum.accumulate(starts, 2), 2)
    edges = rng.integers(0, 2, (1, 256, 256), np.uint8) if instances else None
    return [(mask, edges) for mask in (whole, half, *coarse, runs)]


@torch.no_grad()
def random_weights(case: str, folder: Path) -> Path:
    """A weights file of published settings: random, with the statistics that real masks give."""
    path = folder / f"{case}.safetensors"
    if path.exists():
        return path
    torch.manual_seed(0)
    arch, classes = SETTINGS[case]
    names = [f"class {i}" for i in range(classes)]
    labels = LabelSpace(
        name=case, classes=[*names, {"name": "unknown", "value": 255}], unknown="unknown", instances=True
    )
    generator = Generator(arch, labels.semantic_channels, spectral=False)
    for module in generator.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    masks = real_masks(arch.size, classes)[:2]
    channels = torch.from_numpy(np.concatenate([m for m, _ in masks])).long().clamp(max=classes)
    edges = torch.from_numpy(np.concatenate([e for _, e in masks if e is not None]))
    generator(SemanticMap(channels, edges, labels.num_classes), torch.randn(2, arch.z_dim))
    states = folded_state_dict(generator.eval()), folded_state_dict(ImageEncoder(arch, spectral=False))
    save_weights(path, Card(name=case, architecture=arch, labels=labels), *states)
    return path


@contextmanager
def without_kernels():
    os.environ["SPADE_NATIVE"] = "0"
    try:
        yield
    finally:
        del os.environ["SPADE_NATIVE"]


def open_form(path: Path, form: str) -> Backend:
    """ "plain", "fast", "torch" (fast without kernels), "plain bf16" or "fast bf16"."""
    kind, _, precision = form.partition(" ")
    if kind != "torch":
        return TorchBackend(path, "cpu", kind, precision or "fp32")
    with without_kernels():
        return TorchBackend(path, "cpu", "fast")


def call(backend: Backend, form: str, mask: Mask, z: np.ndarray) -> np.ndarray:
    if form.startswith("plain"):
        return np.concatenate([backend.run(*mask, z[i : i + 1]) for i in range(len(z))])
    if form == "torch":
        with without_kernels():
            return backend.run(*mask, z)
    return backend.run(*mask, z)


def z_for(backend: Backend, samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((samples, backend.card.architecture.z_dim)).astype(np.float32)


def compare(name: str, path: Path, masks: list[Mask], forms: list[str], samples: int, repeats: int) -> None:
    """A row of the table for each form: seconds a mask, and how many times the first form's speed."""
    backends = {form: open_form(path, form) for form in forms}
    z = z_for(backends[forms[0]], samples)
    times: dict[str, list[float]] = {form: [] for form in forms}
    images = {form: [call(b, form, masks[0], z)] for form, b in backends.items()}  # warms up
    slowest = dict.fromkeys(forms, 0.0)
    for mask in masks:
        took = {form: [] for form in forms}
        for _ in range(repeats):
            for form, backend in backends.items():
                begun = time.perf_counter()
                images[form].append(call(backend, form, mask, z))
                took[form].append(time.perf_counter() - begun)
        for form in forms:
            times[form].append(statistics.median(took[form]))
            slowest[form] = max(slowest[form], times[form][-1] / times[forms[0]][-1])
    for form in forms:
        pairs = list(zip(images[forms[0]], images[form], strict=True))
        worst = max(float(np.abs(a - b).max()) for a, b in pairs)
        squares = statistics.mean(float(np.square(a - b).mean()) for a, b in pairs)
        psnr = f"  PSNR {10 * np.log10(4 / squares):.1f} dB" if "bf16" in form else ""
        mean, first = statistics.mean(times[form]), statistics.mean(times[forms[0]])
        print(
            f"{name:12}{samples} sample{'s' if samples > 1 else ' '} {form:11}{mean:8.3f} s{first / mean:7.2f}x"
            f"   slowest mask {1 / slowest[form]:5.2f}x   max difference {worst:.1e}{psnr}",
            flush=True,
        )
    for backend in backends.values():
        backend.close()


def gpu(path: Path, masks: list[Mask], counts: list[int], repeats: int) -> None:
    """Images per second of the torch backend's calls on a CUDA device, the copies to it and back included."""
    if not torch.cuda.is_available():
        print("gpu: there is no CUDA device here")
        return
    print(torch.cuda.get_device_name())
    forms = {
        "plain fp32, TF32 off": ("plain", "fp32", False),
        "plain fp32, TF32 on": ("plain", "fp32", True),
        "plain bf16": ("plain", "bf16", True),
        "fast fp32, TF32 off": ("fast", "fp32", False),
        "fast bf16": ("fast", "bf16", True),
    }
    first: dict[tuple[int, int], float] = {}
    for name, (form, precision, tf32) in forms.items():
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        with TorchBackend(path, "cuda", form, precision) as backend:
            for samples in counts:
                for batch in (1, 8, 32):
                    chosen = [masks[i % len(masks)] for i in range(batch)]
                    labels, edges = (np.concatenate(parts) for parts in zip(*chosen, strict=True))
                    z, took = z_for(backend, batch * samples), []
                    for _ in range(repeats + 2):  # the first ones choose algorithms
                        begun = time.perf_counter()
                        backend.run(labels, edges, z)
                        took.append(time.perf_counter() - begun)
                    rate = batch * samples / statistics.median(took[2:])
                    ratio = rate / first.setdefault((samples, batch), rate)
                    print(f"{name:22}{samples} samples, batch {batch:3}{rate:10.1f} images/s{ratio:7.2f}x", flush=True)


def noise(path: Path, forms: list[str], counts: list[int], repeats: int) -> None:
    """Masks where the fast form has nothing to gain: what counts is the slowest mask."""
    for samples in counts:
        compare("noise coco", path, noise_masks(182, True), forms, samples, repeats)
        compare("noise small", FACADES, noise_masks(12, False), forms, samples, repeats)


@torch.inference_mode()
def precision(path: Path, masks: list[Mask]) -> None:
    """Of plain and fast form from float64."""
    card, exact, _ = load_weights(path)
    exact.double()
    forms = {form: open_form(path, form) for form in ("plain", "fast", "torch")}
    errors: dict[str, float] = dict.fromkeys(forms, 0.0)
    channel_of = torch.from_numpy(card.labels.code_to_channel.astype(np.int64))
    for mask, edges in masks:
        z = z_for(forms["plain"], 1)
        semantic = SemanticMap(
            channel_of[torch.from_numpy(mask).long()], torch.from_numpy(edges), card.labels.num_classes
        )
        expected = exact(semantic, torch.from_numpy(z).double()).numpy()
        for form, backend in forms.items():
            errors[form] = max(errors[form], float(np.abs(call(backend, form, (mask, edges), z) - expected).max()))
    shown = ", ".join(f"{form} {error:.1e}" for form, error in errors.items())
    print(f"distance from float64, largest of {len(masks)} masks: {shown}")


def peak_memory(path: Path, form: str, samples: int) -> float:
    """Peak resident MB of a process that opens the weights and renders two masks."""
    command = [sys.executable, __file__, "coco", "--memory-of", form, "--weights", str(path), "--samples", str(samples)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def print_own_peak(path: Path, form: str, samples: int) -> None:
    backend = open_form(path, form)
    arch = backend.card.architecture
    for mask in real_masks(arch.size, 182)[:2]:
        call(backend, form, mask, z_for(backend, samples))
    # not getrusage, which counts the parent's pages too
    print(int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024)


def command(path: Path, masks: list[np.ndarray], num: int, report: Callable[[str], None] = print) -> None:
    """Rendering a folder of masks, everything included but the start, against the backend's own calls."""
    from PIL import Image

    from spadecli.commands.render.command import RenderOptions, Source, render_with
    from spadecli.commands.render.pipeline import default_batch
    from spadecli.core.report import Silent
    from spadecli.data.edges import connected_components

    with tempfile.TemporaryDirectory() as folder, TorchBackend(path, "cpu") as backend:
        here, arch = Path(folder), backend.card.architecture
        (here / "masks").mkdir()
        codes = []
        for i in range(num):  # each mask shifted, so that no two are the same
            codes.append(np.roll(masks[i % len(masks)], 7 * (i // len(masks)), 1))
            Image.fromarray(codes[-1]).save(here / "masks" / f"{i:04}.png")
        has_edges = backend.card.labels.instances
        edges = [instance_edges(connected_components(c)) if has_edges else None for c in codes]
        batch = default_batch("cpu", arch.size)
        options = RenderOptions(masks=here / "masks", out=here / "out", weights=path)

        def own_calls() -> float:
            begun = time.perf_counter()
            for i in range(0, num, batch):
                part = slice(i, i + batch)
                stacked = np.stack(edges[part]) if has_edges else None
                backend.run(np.stack(codes[part]), stacked, z_for(backend, len(codes[part])))
            return time.perf_counter() - begun

        backend.run(codes[0][None], edges[0][None] if has_edges else None, z_for(backend, 1))
        first = own_calls() if num <= 400 else None
        begun = time.perf_counter()
        result = render_with(Source(backend, path, "0" * 64), options, Silent())
        whole = time.perf_counter() - begun
        assert result.images == num
        if first is None:
            report(f"{path.stem}: {num} masks in {whole:.1f} s, {num / whole:.2f} images/s")
            return
        calls = (first + own_calls()) / 2  # one before, one after
        report(
            f"{path.stem}: {num} masks in {whole:.2f} s; the backend's own calls {calls:.2f} s: {whole / calls:.3f}x"
        )


START = """
import sys, time
import torch
begun = time.perf_counter()
from pathlib import Path
from spadecli.commands.render import RenderOptions, render
render(RenderOptions(masks=Path(sys.argv[1]), out=Path(sys.argv[2]), weights=Path(sys.argv[3])))
print(time.perf_counter() - begun)
"""


def startup(path: Path, mask: np.ndarray) -> None:
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        Image.fromarray(mask).save(Path(folder) / "mask.png")
        seconds = []
        for i in range(3):
            line = [sys.executable, "-c", START, f"{folder}/mask.png", f"{folder}/out{i}", str(path)]
            done = subprocess.run(
                line, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
            )
            seconds.append(float(done.stdout.split()[-1]))
    print(f"{path.stem}: first image written {statistics.median(seconds):.2f} s after `import torch`")


def main() -> None:
    cases = ["coco", "cityscapes", "facades", "noise", "threads", "precision", "memory", "command", "command-facades"]
    cases += ["thousand", "startup"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[[], *cases, "gpu"], default=cases, metavar="CASE")
    parser.add_argument("--masks", type=int, default=13)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--samples", type=int, help="1 or 4; default both")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--forms", default="plain,fast,torch,fast bf16", help="the first is compared with")
    parser.add_argument("--command-masks", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="where the random weights are kept; default a temporary folder")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if THREADS is None:  # conftest means its one thread for tests
        os.environ.pop("OMP_NUM_THREADS", None)
    torch.set_num_threads(args.threads)
    if args.memory_of:
        print_own_peak(args.weights, args.memory_of, args.samples or 1)
        return
    print(
        f"{platform.platform()}, {processor()}, {args.threads} threads; Python {platform.python_version()}, "
        f"torch {torch.__version__}, kernels {native.build()}"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        for case in args.cases:
            run_case(case, args, folder)


def run_case(case: str, args: argparse.Namespace, folder: Path) -> None:
    forms, counts = args.forms.split(","), [args.samples] if args.samples else [1, 4]
    fp32 = [form for form in forms if "bf16" not in form]
    if case == "facades":
        path, masks = FACADES, facade_masks()
    else:
        name = case if case in SETTINGS else "coco"
        arch, classes = SETTINGS[name]
        path, masks = random_weights(name, folder), real_masks(arch.size, classes)
    masks = masks[: args.masks]
    if case in ("facades", *SETTINGS):
        for samples in counts:
            compare(case, path, masks, forms, samples, args.repeats)
    elif case == "threads":
        for threads in (1, 2):
            torch.set_num_threads(threads)
            compare(f"{threads} threads", path, masks, ["fast"], 1, args.repeats)
        torch.set_num_threads(args.threads)
    elif case == "memory":
        for samples in counts:
            found = {form: peak_memory(path, form, samples) for form in forms}
            print(f"peak memory, {samples} samples: " + ", ".join(f"{form} {mb:.0f} MB" for form, mb in found.items()))
    else:
        single = [mask[0] for mask, _ in masks]
        facades = [mask[0] for mask, _ in facade_masks()]
        {
            "gpu": lambda: gpu(path, masks, counts, args.repeats + 3),
            "noise": lambda: noise(path, fp32, counts, args.repeats),
            "precision": lambda: precision(path, masks[:3]),
            "command": lambda: command(path, single, args.command_masks),
            "command-facades": lambda: command(FACADES, facades, args.command_masks),
            "thousand": lambda: command(FACADES, facades, 1000),
            "startup": lambda: (startup(path, single[0]), startup(FACADES, facades[0])),
        }[case]()


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()}, {torch.backends.cpu.get_cpu_capability()}"
    return platform.processor()


if __name__ == "__main__":
    main()
