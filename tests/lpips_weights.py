"""Weights of LPIPS that a test makes: random, under the names of the published files."""

from __future__ import annotations

import torch
from torch import Tensor

# convolutions by their place in torchvision's AlexNet: kernel, stride, padding, input and output channels
CONVOLUTIONS = {
    0: (11, 4, 2, 3, 64),
    3: (5, 1, 2, 64, 192),
    6: (3, 1, 1, 192, 384),
    8: (3, 1, 1, 384, 256),
    10: (3, 1, 1, 256, 256),
}


def random_alexnet() -> dict[str, Tensor]:
    """Convolutions that keep the size of what goes through them, with biases."""
    random = torch.Generator().manual_seed(0)
    state = {}
    for place, (kernel, _, _, fin, fout) in CONVOLUTIONS.items():
        weight = torch.randn(fout, fin, kernel, kernel, generator=random)
        state[f"features.{place}.weight"] = weight * (2 / (fin * kernel**2)) ** 0.5
        state[f"features.{place}.bias"] = torch.randn(fout, generator=random) / 4
    return state


def random_heads(name: str = "lpips.lin{}.weight") -> dict[str, Tensor]:
    """Linear heads; the authors' files name them "lin{}.model.1.weight"."""
    random = torch.Generator().manual_seed(1)
    channels = [fout for *_, fout in CONVOLUTIONS.values()]
    return {name.format(i): torch.rand(1, c, 1, 1, generator=random) for i, c in enumerate(channels)}
