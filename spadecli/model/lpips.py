"""LPIPS with AlexNet: a distance between pictures, learned from people's judgements (Zhang et al., CVPR 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import BackendUnavailable, UserError
from .pretrained import cached_file, fetch_state, package_file, read_state, select_state

NAME = "LPIPS (AlexNet, v0.1)"
OPTION = "--lpips"
PACKAGE = "lpips"  # its authors' package: the linear heads
HEADS = "weights/v0.1/alex.pth"
ALEXNET_URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
# mean and deviation of ImageNet's channels for images in [-1,1], rounded as in the authors' code
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
TAPS = (1, 4, 7, 9, 11)
CHANNELS = (64, 192, 384, 256, 256)
MIN_SIDE = 31  # pixels; on less, the second pooling has nothing to pool
INSTALL = f"pip install --no-deps {PACKAGE}"


def alexnet_layers() -> list[nn.Module]:
    """Build torchvision's AlexNet up to its last ReLU (Krizhevsky, arXiv:1404.5997)."""
    return [
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    ]


class Lpips(nn.Module):
    """The network of LPIPS: feature maps after each ReLU, and the weights of their channels (the linear heads).

    The distance of two images is the sum over maps l of the mean over positions of sum_c w_lc (a_lc - b_lc)^2, where a
    and b are the maps scaled to unit length along the channels (equation 1): see metrics/diversity.py.
    ``state`` holds ``features.*`` with torchvision's names, and heads [1,C,1,1] named ``lpips.linI.weight`` or, as in
    the authors' files, ``linI.model.1.weight``.
    Raises KeyError, whose argument lists them, if entries of the state are missing or of another shape.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, state: Mapping[str, Any]) -> None:
        super().__init__()
        self.features = nn.Sequential(*alexnet_layers())
        self.features.load_state_dict(select_state(self.features, state))
        names = {f"lin{i}.model.1.weight": f"lpips.lin{i}.weight" for i in range(len(TAPS))}
        heads = nn.ModuleDict({f"lin{i}": nn.Conv2d(c, 1, 1, bias=False) for i, c in enumerate(CHANNELS)})
        renamed = {names.get(name, name): tensor for name, tensor in state.items()}
        selected = select_state(heads, renamed, "lpips.")
        self.heads: Sequence[Tensor] = [head.flatten() for head in selected.values()]
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    def maps(self, images: Tensor) -> Sequence[Tensor]:
        """Images [N,3,H,W] in [-1,1] -> the five feature maps [N,C,h,w].

        Raises UserError if H or W is less than MIN_SIDE.
        """
        if min(images.shape[2:]) < MIN_SIDE:
            size = "{}x{}".format(*images.shape[2:])
            raise UserError(f"LPIPS needs pictures of {MIN_SIDE}x{MIN_SIDE} pixels or more (found {size})")
        x = (images - self.shift) / self.scale
        maps = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in TAPS:
                maps.append(x)
        return maps


def installed_files() -> tuple[Path, Path | None]:
    """The files that make LPIPS without one of its own: AlexNet in torch's download cache, which may not be there yet,
    and the heads in the authors' package, None if it is not installed.
    """
    return cached_file(ALEXNET_URL), package_file(PACKAGE, HEADS)


def fetch_alexnet() -> None:
    """Have torch fetch AlexNet from torchvision's address. Raises BackendUnavailable if that fails."""
    try:
        fetch_state(ALEXNET_URL)
    except (OSError, RuntimeError) as e:
        raise BackendUnavailable(
            f"the AlexNet of LPIPS could not be fetched from {ALEXNET_URL} ({e})",
            hint=f"fetch it elsewhere and save it as {cached_file(ALEXNET_URL)}, or give {OPTION} FILE",
        ) from e


def open_lpips(files: Sequence[Path]) -> Lpips:
    """Open LPIPS from one file, or from several that hold its parts.

    Raises UserError if a file is missing or cannot be read, or the parts are not those of LPIPS with AlexNet.
    """
    state: dict[str, Any] = {}
    for path in files:
        state |= read_state(path, OPTION)
    try:
        return Lpips(state)
    except KeyError as e:
        raise UserError(
            f"{', '.join(map(str, files))}: not LPIPS with AlexNet: {e.args[0]}",
            hint="it needs AlexNet's convolutions (features.0.weight ...) and the heads (lpips.lin0.weight ...)",
        ) from e
