"""Rendering in tiles: time and peak resident memory against the whole, one process each. `make bench` calls it.

    python tests/bench/bench_tiles.py [--sides 1024,2048] [--large 4096] [--tiles 256,512,1024] [--form auto]

The shipped weights on a facade's mask, repeated and enlarged to a square of so many pixels. ``--sides`` are computed
whole as well, and compared; ``--large`` is rendered in tiles alone, by `spade render` with everything it does.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
FACADES = ROOT / "weights" / "facades.safetensors"


def mask_of(side: int) -> np.ndarray:
    """A facade's labels uint8 [side,side], at twice their size and as often as they fit."""
    from conftest import shared
    from PIL import Image

    first = np.array(Image.open(sorted(shared("data", "facades", "train", "masks").glob("*.png"))[0]))
    twice = np.kron(first, np.ones((2, 2), np.uint8))
    times = -(-side // min(twice.shape))
    return np.ascontiguousarray(np.tile(twice, (times, times))[:side, :side])


def peak_mb() -> float:
    # not getrusage, which counts the parent's pages too
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def run_one(side: int, tile: int | None, form: str, threads: int, image: Path) -> None:
    """Compute and save an image, print seconds and MB of this process, and MB of it before the image."""
    import torch

    from spadecli.backends import open_backend

    torch.set_num_threads(threads)
    mask = mask_of(side)
    with open_backend(FACADES, "cpu", form=form, tile=tile) as backend:
        z = np.zeros((1, backend.card.architecture.z_dim), np.float32)
        backend.run(mask[None, :256, :256].copy(), None, z)  # warms up
        before, begun = peak_mb(), time.perf_counter()
        out = backend.run(mask[None], None, z)
        print(time.perf_counter() - begun, peak_mb(), before)
    np.save(image, out)


def run_command(side: int, tile: int, form: str, threads: int, folder: Path) -> None:
    """`spade render --tile` of one mask; print seconds and MB of this process."""
    import torch
    from PIL import Image

    from spadecli.commands.render.command import RenderOptions, render

    torch.set_num_threads(threads)
    Image.fromarray(mask_of(side)).save(folder / "mask.png")
    options = RenderOptions(
        masks=folder / "mask.png", out=folder / "out", size=(side, side), plain=form == "plain", tile=tile
    )
    begun = time.perf_counter()
    assert render(options).images == 1
    print(time.perf_counter() - begun, peak_mb(), 0)


def measure(*arguments: object) -> list[float]:
    line = [sys.executable, __file__, "--one", *map(str, arguments)]
    done = subprocess.run(line, check=True, capture_output=True, text=True)
    return [float(word) for word in done.stdout.split()[-3:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", default="1024,2048")
    parser.add_argument("--large", type=int, default=4096)
    parser.add_argument("--tiles", default="256,512,1024")
    parser.add_argument("--form", default="auto", choices=["auto", "fast", "plain"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", nargs=5, metavar=("SIDE", "TILE", "FORM", "THREADS", "PATH"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        side, tile, form, threads, path = args.one
        if Path(path).is_dir():
            run_command(int(side), int(tile), form, int(threads), Path(path))
        else:
            run_one(int(side), None if tile == "whole" else int(tile), form, int(threads), Path(path))
        return
    tiles = [int(t) for t in args.tiles.split(",")]
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        for side in [int(s) for s in args.sides.split(",") if s]:
            for tile in ["whole", *tiles]:
                seconds, peak, before = measure(side, tile, args.form, args.threads, here / f"{tile}.npy")
                images = [np.load(here / f"{name}.npy") for name in ("whole", tile)]
                worst = float(np.abs(images[0] - images[1]).max())
                print(
                    f"{side}x{side} {tile!s:>6} {seconds:8.2f} s  peak {peak:6.0f} MB, {peak - before:6.0f} MB of them "
                    f"for the image   largest difference {worst:.1e}",
                    flush=True,
                )
        for tile in tiles if args.large else []:
            seconds, peak, _ = measure(args.large, tile, args.form, args.threads, here)
            (here / "out" / "mask_0.png").unlink()
            print(f"spade render {args.large}x{args.large} {tile:>6} {seconds:8.2f} s  peak {peak:6.0f} MB", flush=True)


if __name__ == "__main__":
    main()
