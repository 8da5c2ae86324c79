"""The multi-scale patch discriminator (appendix A, figure 13)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .norm import EPS, conv
from .semantic import SemanticMap

MAX_WIDTH = 512


class PatchDiscriminator(nn.Module):
    """Five 4x4 convolutions; the three in the middle are spectrally and instance normalized."""

    def __init__(self, in_channels: int, ndf: int) -> None:
        super().__init__()
        w = [ndf, *(min(ndf * 2**i, MAX_WIDTH) for i in (1, 2, 3))]
        self.layers = nn.ModuleList(
            [
                conv(in_channels, w[0], 4, stride=2, padding=2, spectral=False),
                conv(w[0], w[1], 4, stride=2, padding=2, bias=False, spectral=True),
                conv(w[1], w[2], 4, stride=2, padding=2, bias=False, spectral=True),
                conv(w[2], w[3], 4, stride=1, padding=2, bias=False, spectral=True),
                conv(w[3], 1, 4, stride=1, padding=2, spectral=False),
            ]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N,C,H,W] -> the four inner feature maps, then the patch scores [N,1,h,w]."""
        maps = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if 0 < i < 4:
                x = F.instance_norm(x, eps=EPS)
            if i < 4:
                x = F.leaky_relu(x, 0.2)
            maps.append(x)
        return maps


class Discriminator(nn.Module):
    """Patch discriminators on the image and on average-pooled copies of it, each seeing map and image."""

    def __init__(self, semantic_channels: int, ndf: int = 64, num_scales: int = 2) -> None:
        super().__init__()
        self.scales = nn.ModuleList(PatchDiscriminator(semantic_channels + 3, ndf) for _ in range(num_scales))

    def forward(
        self, semantic: SemanticMap, fake: Tensor, real: Tensor
    ) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        """Images [N,3,H,W] of N maps -> per scale the feature maps of the fake and of the real half.

        Both halves pass in one batch, so that they meet the same statistics.
        """
        planes = semantic.planes(semantic.size, fake.dtype)
        x = torch.cat([torch.cat([planes, fake], 1), torch.cat([planes, real.to(fake.dtype)], 1)])
        fakes, reals = [], []
        for i, scale in enumerate(self.scales):
            if i:
                x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
            maps = scale(x)
            fakes.append([m[: len(fake)] for m in maps])
            reals.append([m[len(fake) :] for m in maps])
        return fakes, reals
