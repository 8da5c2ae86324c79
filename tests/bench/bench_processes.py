"""How far training in 2 and 4 processes ends from training in one, with the same total batch.

    python tests/bench/bench_processes.py [--steps 1 5 20]

A small network on random pairs, on the CPU over gloo. Beside it, as a yardstick of rounding, one process whose SPADE
layers are computed in another order (train.modulation plain against fast). Largest absolute difference over all
parameters but the biases before a norm: their true gradient is zero, and Adam makes full steps of its rounding.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from tiny_training import make_recipe, options  # noqa: E402
from together import succeed  # noqa: E402

from spadecli.commands.train.command import train  # noqa: E402

WIDER = ("model.ngf=8", "model.hidden=16", "model.z_dim=16", "discriminator.ndf=8", "train.batch=8")
RARELY = ("train.log_every=1000", "train.sample_every=1000", "train.checkpoint_every=1000")


def before_a_norm(name: str) -> bool:
    """Biases that a norm takes out again."""
    return name.endswith(".bias") and "conv_" in name and "conv_img" not in name


def parameters(runs: Path) -> dict[str, torch.Tensor]:
    networks = torch.load(runs / "tiny" / "state.pt")["trainer"]["networks"]
    every = {f"{network}.{name}": value for network, state in networks.items() for name, value in state.items()}
    left_out = ("weight_u", "weight_v", "running_mean", "running_var", "num_batches_tracked")
    return {n: v.double() for n, v in every.items() if not n.endswith(left_out) and not before_a_norm(n)}


def difference(a: Path, b: Path) -> float:
    first, second = parameters(a), parameters(b)
    return max((first[name] - second[name]).abs().max().item() for name in first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 5, 20])
    args = parser.parse_args()
    print(f"torch {torch.__version__}, gloo, batch 8; largest difference from one process")
    print(f"{'precision':12}{'steps':>6}{'2 processes':>14}{'4 processes':>14}{'other rounding':>16}")
    for precision in ("fp64", "fp32"):
        for steps in args.steps:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                recipe = make_recipe(folder, instances=True, pairs=21, scale=2)
                settings = (*WIDER, *RARELY, f"train.precision={precision}", f"train.steps={steps}")
                train(options(recipe, folder / "1", *settings, "train.modulation=fast"))
                train(options(recipe, folder / "plain", *settings, "train.modulation=plain"))
                for size in (2, 4):
                    what = options(recipe, folder / str(size), *settings, "train.modulation=fast")
                    succeed(size, folder, train, what)
                found = [difference(folder / "1", folder / other) for other in ("2", "4", "plain")]
            print(f"{precision:12}{steps:6}{found[0]:14.1e}{found[1]:14.1e}{found[2]:16.1e}", flush=True)


if __name__ == "__main__":
    main()
