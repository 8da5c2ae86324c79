"""The image encoder: a photo's style as mean and log variance of z (section 3.4, figure 14)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.architecture import Architecture
from .layers import conv, instance_norm

INPUT_SIZE = (256, 256)
COLOUR_SPREAD = 0.25  # deviation of a square's colour over photographs; the normed features beside it spread about 1


class ImageEncoder(nn.Module):
    """Six 3x3 stride-2 convolutions with instance norm, then two linear heads.

    Photos of another size are resized bilinearly to 256x256 first.

    The first convolution has no bias and is normed over the image, so that a photo's overall colour, light and
    contrast cancel, but for the padded borders, before any later weight sees them. With ``arch.encoder_grid`` the
    heads are also given the photo averaged over a grid of squares, which keeps them.
    """

    def __init__(self, arch: Architecture, spectral: bool | None = None) -> None:
        super().__init__()
        spectral = arch.spectral_norm if spectral is None else spectral
        n = arch.ngf
        widths = [3, n, 2 * n, 4 * n, 8 * n, 8 * n, 8 * n]
        self.layers = nn.ModuleList(
            conv(fin, fout, 3, stride=2, padding=1, bias=False, spectral=spectral) for fin, fout in pairwise(widths)
        )
        self.grid = arch.encoder_grid
        features, colours = widths[-1] * (INPUT_SIZE[0] >> 6) * (INPUT_SIZE[1] >> 6), 3 * self.grid**2
        # few beside many: they weigh as much together, or a thousand steps would hardly move the heads by them
        self.gain = (features / max(1, colours)) ** 0.5 / COLOUR_SPREAD
        self.fc_mu = nn.Linear(features + colours, arch.z_dim)
        self.fc_logvar = nn.Linear(features + colours, arch.z_dim)

    def forward(self, photos: Tensor) -> tuple[Tensor, Tensor]:
        """[N,3,H,W] in [-1,1] -> mu, logvar, each [N,Z]."""
        x = photos
        if x.shape[2:] != INPUT_SIZE:
            x = F.interpolate(x, size=INPUT_SIZE, mode="bilinear", align_corners=False)
        resized = x
        for layer in self.layers:
            x = F.leaky_relu(instance_norm(layer(x)), 0.2)
        x = x.flatten(1)
        if self.grid:
            squares = F.avg_pool2d(resized, INPUT_SIZE[0] // self.grid)
            x = torch.cat([x, self.gain * squares.flatten(1)], dim=1)
        return self.fc_mu(x), self.fc_logvar(x)


def add_grid(state: Mapping[str, Tensor], grid: int) -> dict[str, Tensor]:
    """Tensors of an encoder without grid as tensors of one with it; the new inputs' weights are 0, so that the
    function stays the same until it is trained."""
    added = dict(state)
    for name in ("fc_mu.weight", "fc_logvar.weight"):
        added[name] = F.pad(state[name], (0, 3 * grid**2))
    return added


def reparameterize(mu: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
    """z = mu + exp(logvar / 2) · eps, all [N,Z]."""
    return torch.addcmul(mu, torch.exp(0.5 * logvar), eps)
