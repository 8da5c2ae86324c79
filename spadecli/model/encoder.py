"""The image encoder: the style of a photo as the posterior of z, its mean and log variance (section 3.4, figure 14)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.architecture import Architecture
from .layers import conv, instance_norm

INPUT_SIZE = (256, 256)
COLOUR_SPREAD = 0.25  # standard deviation of a square's colour over photographs; that of the normed features is about 1


class ImageEncoder(nn.Module):
    """Six 3x3 stride-2 convolutions with instance norm, then two linear heads.

    Photos of another size are first resized to 256x256, bilinearly.

    The first convolution has no bias and is followed by an instance norm, so that a photo's overall colour, lighting
    and contrast cancel (except at the padded borders) before the next layer. With ``arch.encoder_grid`` the heads also
    see the photo averaged over a grid of squares, which preserves them.
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
        # the few colours together weigh as much as the many features; otherwise the heads would learn them too slowly
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
    """Convert the tensors of an encoder without a grid to those of one with it.

    The weights of the new inputs are 0, so that the function is the same until it is trained.
    """
    added = dict(state)
    for name in ("fc_mu.weight", "fc_logvar.weight"):
        added[name] = F.pad(state[name], (0, 3 * grid**2))
    return added


def reparameterize(mu: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
    """Sample z = mu + exp(logvar / 2) · eps, all [N,Z]."""
    return torch.addcmul(mu, torch.exp(0.5 * logvar), eps)
