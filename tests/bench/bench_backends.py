"""Images per second of every backend, compared in one run.

    python tests/bench/bench_backends.py [facades|coco] [--batch 1 8 32] [--samples 1 4] [--repeats 5]
                                           [--markdown]

coco: the paper's settings for COCO-Stuff at 256x256 with random weights (latent noise, so that samples differ).
Transfer to and from the device is in every figure; a column tells the same with PNG writing (in the same thread).
Rows that need a device or a package that this machine lacks are left out. Ratios are to torch eager fp32 and to torch
bf16 channels-last, "-" without that row; the share of the peak is of the row's own precision.
--markdown prints a Markdown table too. On a machine that does something else at the same time a warning says so: such
figures are too low, and are not to be quoted.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from spadecli.backends import open_backend  # noqa: E402
from spadecli.backends.base import Form, Precision  # noqa: E402
from spadecli.backends.profile import Profile  # noqa: E402
from spadecli.backends.verify import fixed_inputs  # noqa: E402
from spadecli.commands.convert.command import ConvertOptions, convert  # noqa: E402
from spadecli.compute.devices import fp32_math  # noqa: E402
from spadecli.core.errors import SpadeError  # noqa: E402
from spadecli.core.recipe_files import find_recipe, load_recipe, shipped_weights  # noqa: E402
from spadecli.model.generator import Generator  # noqa: E402
from spadecli.model.init import initialize  # noqa: E402
from spadecli.weights.card import Card  # noqa: E402
from spadecli.weights.file import folded_state_dict, load_weights, save_weights  # noqa: E402

Run = Callable[[np.ndarray, np.ndarray | None, np.ndarray | None], np.ndarray]
# multiply-accumulates of one image, modulation included, as published for COCO-Stuff
MACS = {"coco": 191.1e9}
BUSY = 0.5  # load from which on figures are not to be quoted
# dense peaks, FLOP/s: fp32 without tensor cores, TF32, and half precision with them
PEAKS = {
    "H100": {"fp32": 67e12, "tf32": 495e12, "half": 989e12},
    "H200": {"fp32": 67e12, "tf32": 495e12, "half": 989e12},
    "A100": {"fp32": 19.5e12, "tf32": 156e12, "half": 312e12},
    "RTX 4090": {"fp32": 82.6e12, "tf32": 82.6e12, "half": 165e12},
}
EAGER, BF16 = "torch eager fp32", "torch bf16 channels-last"
Batch = tuple[int, int]  # masks, samples a mask


@dataclass(frozen=True)
class Cell:
    """Images per second, alone and with PNG writing; share of the arithmetic peak, None where it is not known."""

    rate: float
    written: float
    share: float | None


def coco_weights(folder: Path) -> Path:
    recipe = load_recipe(find_recipe("coco-stuff")).recipe
    arch = recipe.model.model_copy(update={"latent": "noise"})
    generator = Generator(arch, recipe.labels.semantic_channels, spectral=False)
    initialize(generator, 0)
    path = folder / "coco.safetensors"
    card = Card(name="coco", architecture=arch, labels=recipe.labels)
    save_weights(path, card, folded_state_dict(generator), None)
    return path


@contextmanager
def eager(weights: Path, device: str, form: Form = "plain", precision: Precision = "fp32") -> Iterator[Run]:
    with open_backend(weights, device, form=form, precision=precision) as backend:
        yield backend.run


@contextmanager
def module(weights: Path, device: str, dtype: torch.dtype, compiled: bool) -> Iterator[Run]:
    """The generator itself: in another precision, channels last, compiled."""
    from spadecli.model.semantic import SemanticMap

    card, generator, _ = load_weights(weights)
    generator = generator.to(device, dtype, memory_format=torch.channels_last)
    forward = torch.compile(generator) if compiled else generator
    table = torch.from_numpy(card.labels.code_to_channel.astype(np.int64)).to(device)

    @torch.inference_mode()
    def run(labels, edges, z):
        planes = None if edges is None else torch.from_numpy(edges).to(device)
        channels = table[torch.from_numpy(labels).to(device).long()]
        latent = torch.from_numpy(z).to(device, dtype)
        return forward(SemanticMap(channels, planes, card.labels.num_classes), latent).float().cpu().numpy()

    with fp32_math():
        yield run


@contextmanager
def converted(weights: Path, folder: Path, device: str, largest: int, **options) -> Iterator[Run]:
    path = folder / f"{options['to']}-{options['precision']}"
    path = path.with_suffix(".onnx" if options["to"] == "onnx" else ".engine")
    if not path.exists():
        profile = Profile((1, 8, largest), (1, 1, 4)) if options["to"] != "onnx" else Profile()
        convert(ConvertOptions(weights, path, profile=profile, verify=False, **options))
    with open_backend(path, device) as backend:
        yield backend.run


def rows(weights: Path, folder: Path, device: str, largest: int) -> dict[str, Callable[[], object]]:
    """Name -> how to open it, of the rows that are for this device."""
    engines = "tensorrt" if importlib.util.find_spec("tensorrt") else "tensorrt-rtx"
    anywhere = {
        EAGER: lambda: eager(weights, device),
        "torch.compile fp32": lambda: module(weights, device, torch.float32, True),
        "ONNX Runtime fp32": lambda: converted(weights, folder, device, largest, to="onnx", precision="fp32"),
    }
    if device == "cpu":
        return anywhere | {"spade's CPU form fp32": lambda: eager(weights, device, "fast")}
    return anywhere | {
        "torch eager tf32": lambda: eager(weights, device, precision="tf32"),
        BF16: lambda: module(weights, device, torch.bfloat16, False),
        "torch.compile bf16": lambda: module(weights, device, torch.bfloat16, True),
        "TensorRT fp32": lambda: converted(weights, folder, device, largest, to=engines, precision="fp32"),
        "TensorRT fp16": lambda: converted(weights, folder, device, largest, to=engines, precision="fp16"),
    }


def write_pngs(images: np.ndarray) -> None:
    for image in ((images + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1):
        Image.fromarray(image).save(io.BytesIO(), "PNG")


def seconds(run: Run, inputs: tuple, repeats: int) -> tuple[float, float]:
    """Median seconds of a call, and of a call with PNG writing; the first call warms up."""
    run(*inputs)
    plain, written = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        images = run(*inputs)
        plain.append(time.perf_counter() - start)
        write_pngs(images)
        written.append(time.perf_counter() - start)
    return statistics.median(plain), statistics.median(written)


def precision_of(row: str) -> str:
    """Which peak a row is held against."""
    last = row.rsplit(maxsplit=1)[-1]
    return last if last in ("fp32", "tf32") else "half"


def batches(args: argparse.Namespace) -> list[Batch]:
    return list(dict.fromkeys((max(1, b // s), s) for b in args.batch for s in args.samples))


def compare(case: str, weights: Path, args: argparse.Namespace, folder: Path) -> dict[str, list[Cell]]:
    """Row -> a cell for each batch."""
    card = load_weights(weights)[0]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    gpu = torch.cuda.get_device_name() if device == "cuda" else ""
    peaks = next((p for name, p in PEAKS.items() if name in gpu), None)
    print(f"{case}, {'x'.join(map(str, card.architecture.size))}, on {gpu or device}")
    table: dict[str, list[Cell]] = {}
    for name, opener in rows(weights, folder, device, max(args.batch)).items():
        if args.only and not any(name.startswith(o) for o in args.only):
            continue
        print(f"{name} ...", file=sys.stderr)
        with ExitStack() as stack:
            try:
                run = stack.enter_context(opener())
            except SpadeError as e:
                print(f"{name}: {e.message}", file=sys.stderr)
                continue
            cells = table.setdefault(name, [])
            for masks, samples in batches(args):
                spent, written = seconds(run, fixed_inputs(card, masks, samples), args.repeats)
                rate = masks * samples / spent
                known = peaks is not None and case in MACS and samples == 1
                share = 2 * MACS[case] * rate / peaks[precision_of(name)] if known else None
                cells.append(Cell(rate, masks * samples / written, share))
    return table


def lines(table: dict[str, list[Cell]], columns: list[Batch]) -> list[str]:
    """Everything, a line for each row and batch."""
    found = [
        f"{'':26}{'images':>6}{'samples':>8}{'images/s':>10}{'with PNG':>10}"
        f"{'x eager fp32':>14}{'x bf16 channels-last':>22}{'of peak':>9}"
    ]
    for name, cells in table.items():
        for i, ((masks, samples), cell) in enumerate(zip(columns, cells, strict=True)):
            where = f"{name:26}{masks * samples:6}{samples:8}"
            bases = [table[row][i] if row in table else None for row in (EAGER, BF16)]
            eager_ratio, bf16_ratio = (f"{cell.rate / base.rate:.2f}" if base else "-" for base in bases)
            share = "-" if cell.share is None else f"{cell.share:.1%}"
            found.append(f"{where}{cell.rate:10.2f}{cell.written:10.2f}{eager_ratio:>14}{bf16_ratio:>22}{share:>9}")
    return found


def machine() -> str:
    """What the figures are from, and when."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file() and (models := re.findall(r"^model name\s*: (.*)$", info.read_text(), re.M)):
        name = f"{len(models)} x {models[0]}"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    words = [f"{date.today()}", name, gpu, f"{torch.get_num_threads()} threads", f"torch {torch.__version__}"]
    return ", ".join([*words, platform.system()])


def markdown(table: dict[str, list[Cell]], columns: list[Batch]) -> list[str]:
    """A table for a report. Share of the peak: the best of the row."""
    heads = ["images/s", *(f"{m * s} at {s}" for m, s in columns), "share of peak"]
    found = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for name, cells in table.items():
        shares = [c.share for c in cells if c.share is not None]
        words = [*(f"{c.rate:.2f}" for c in cells), f"{max(shares):.1%}" if shares else "-"]
        found.append(f"| {' | '.join([name, *words])} |")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="?", default="facades", choices=["facades", "coco"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", help="rows that begin with one of these; ratios need theirs")
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    print(machine())
    if (load := os.getloadavg()[0]) > BUSY:
        print(f"warning: this machine is busy (load {load:.1f}); what follows is too low", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        weights = shipped_weights() if args.case == "facades" else coco_weights(Path(folder))
        table = compare(args.case, weights, args, Path(folder))
    print(*lines(table, batches(args)), sep="\n")
    if args.markdown:
        print("", *markdown(table, batches(args)), sep="\n")


if __name__ == "__main__":
    main()
