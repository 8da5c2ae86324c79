"""One modulated convolution, written in four ways: what the choice of a small C++ file rests on.

    python tests/bench/bench_kernels.py [--threads 2] [--repeats 5]

The heart of the generator at the last level of COCO-Stuff settings: 64 channels at 256x256, scale and shift gathered
from a table of distinct windows, leaky ReLU, 3x3 convolution. torch: its own operations. torch.compile: the same,
compiled (needs a C++ compiler at run time). numba: the gather fused by numba, where it is installed, the convolution
torch's. C++: the kernels of this package. Seconds of the first call tell what a user waits for once.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from spadecli.kernels import native  # noqa: E402

CHANNELS, SIZE, ROWS, LEAK = 64, 256, 6000, 0.2  # rows: about 9 % of the pixels, as in real masks


def modulated(x: Tensor, rows: Tensor, row: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    scale, shift = rows[row.long()].permute(0, 3, 1, 2).chunk(2, 1)
    return F.conv2d(F.leaky_relu(torch.addcmul(shift, x, scale), LEAK), weight, bias, padding=1)


def numba_gather() -> Callable[..., None]:
    import numba

    @numba.njit(parallel=True, fastmath=True)
    def gather(x, rows, row, out):
        pixels, channels = x.shape
        for p in numba.prange(pixels):
            r = row[p]
            for c in range(channels):
                value = x[p, c] * rows[r, c] + rows[r, channels + c]
                out[p, c] = value if value > 0 else value * LEAK

    return gather


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    x = torch.randn(1, CHANNELS, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    rows = torch.randn(ROWS, 2 * CHANNELS)
    row = torch.randint(0, ROWS, (1, SIZE, SIZE), dtype=torch.int32)
    weight, bias = torch.randn(CHANNELS, CHANNELS, 3, 3) / 24, torch.randn(CHANNELS)
    filters = weight.contiguous(memory_format=torch.channels_last)

    forms: dict[str, Callable[[], Tensor]] = {"torch": lambda: modulated(x, rows, row, filters, bias)}
    compiled = torch.compile(modulated)
    forms["torch.compile"] = lambda: compiled(x, rows, row, filters, bias)
    if importlib.util.find_spec("numba"):
        gather, out = numba_gather(), torch.empty(1, SIZE, SIZE, CHANNELS)
        flat = [t.reshape(SIZE * SIZE, -1).numpy() for t in (x.permute(0, 2, 3, 1), out)]

        def with_numba() -> Tensor:
            gather(flat[0], rows.numpy(), row.view(-1).numpy(), flat[1])
            return F.conv2d(out.permute(0, 3, 1, 2), filters, bias, padding=1)

        forms["numba"] = with_numba
    if native.available():
        packed, modulation = native.pack(weight.flatten(1).T), native.Modulation(rows, row, 1, LEAK)
        forms["C++"] = lambda: native.convolve(x, packed, bias, modulation)

    expected, base = modulated(*(t.double() if t.is_floating_point() else t for t in (x, rows, row, weight, bias))), 0.0
    print(f"{args.threads} threads, torch {torch.__version__}, kernels {native.build()}")
    with torch.inference_mode():
        for name, form in forms.items():
            begun = time.perf_counter()
            error = float((form() - expected).abs().max())
            first, took = time.perf_counter() - begun, []
            for _ in range(args.repeats):
                begun = time.perf_counter()
                form()
                took.append(time.perf_counter() - begun)
            median = statistics.median(took)
            base = base or median
            print(
                f"{name:14}{1e3 * median:8.1f} ms{base / median:7.2f}x   first call {first:6.2f} s   error {error:.1e}"
            )


if __name__ == "__main__":
    main()
