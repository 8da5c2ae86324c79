"""A projected discriminator (Sauer et al., NeurIPS 2021): small heads on frozen features, which see the label map too.

The features of an ImageNet network are scaled to unit mean square, then mixed across channels, and from coarse to fine
across scales, by fixed random convolutions, so that a generator cannot please a few channels alone. Only the heads are
trained. With little data they give useful gradients long before a patch discriminator, trained from scratch, does.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import losses
from .feature_maps import FeatureMaps
from .layers import conv, convolve_all
from .losses import Verdict
from .semantic import BatchClasses, SemanticMap

LEAK = 0.2
MIX_SEED = 7


class Head(nn.Module):
    """Two 3x3 convolutions and a 1x1 one, spectrally normalized, on mixed features and the label map."""

    def __init__(self, fin: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                conv(fin, width, 3, padding=1, spectral=True),
                conv(width, width, 3, padding=1, spectral=True),
                conv(width, 1, 1, spectral=True),
            ]
        )

    def forward(self, batches: list[Tensor]) -> list[list[Tensor]]:
        """Batches [N,C,h,w] -> for each batch the two inner maps, then the scores [N,1,h,w]."""
        xs, maps = batches, [list[Tensor]() for _ in batches]
        for i, layer in enumerate(self.layers):
            xs = convolve_all(cast(nn.Conv2d, layer), xs)
            if i < 2:
                xs = [F.leaky_relu(x, LEAK) for x in xs]
            for found, x in zip(maps, xs, strict=True):
                found.append(x)
        return maps


class ProjectedDiscriminator(nn.Module):
    """Heads of ``width`` channels on every scale of ``features``."""

    chance_loss = 1.0  # d_real where every score is 0

    def __init__(self, semantic_channels: int, features: FeatureMaps, width: int = 64) -> None:
        super().__init__()
        self.features, self.width = features, width
        random = torch.Generator().manual_seed(MIX_SEED)
        for i, channels in enumerate(features.channels):
            mix = torch.randn(width, channels, 1, 1, generator=random) / channels**0.5
            self.register_buffer(f"mix_{i}", mix)
            up = torch.randn(width, width, 3, 3, generator=random) / (9 * width) ** 0.5
            self.register_buffer(f"up_{i}", up)
        self.register_buffer("scales", torch.ones(len(features.channels)))
        self.heads = nn.ModuleList(Head(width + semantic_channels, width) for _ in features.channels)

    def semantic_offsets(self) -> dict[str, int]:
        """Weights that see the map, and where the semantic channels begin among their inputs."""
        return {f"heads.{i}.layers.0.weight": self.width for i in range(len(self.heads))}

    @torch.no_grad()
    def load_frozen(self, weights: Path | None) -> None:
        """Read the feature network, and measure the scale of its maps on smooth noise."""
        self.features.load(weights)
        random = torch.Generator().manual_seed(MIX_SEED)
        noise = 4 * torch.rand(2, 3, 128, 128, generator=random) - 2
        smooth = F.interpolate(F.avg_pool2d(noise, 8), scale_factor=8.0, mode="bilinear").clamp(-1, 1)
        spreads = [m.square().mean().sqrt() for m in self.features(smooth)]
        self.get_buffer("scales").copy_(1 / torch.stack(spreads))

    def forward(
        self, semantic: SemanticMap, fake: Tensor, real: Tensor, classes: BatchClasses | None = None
    ) -> Verdict:
        """Images [N,3,H,W] of N maps -> hinge losses, and the heads' maps of each scale."""
        with torch.no_grad():
            of_real = self._mixed(real.to(fake.dtype))
        of_fake = self._mixed(fake)
        planes = semantic.planes(semantic.size, fake.dtype)
        fakes, reals = [], []
        for head, x, y in zip(self.heads, of_fake, of_real, strict=True):
            shares = F.adaptive_avg_pool2d(planes, (x.shape[2], x.shape[3]))
            for_fake, for_real = head([torch.cat([m, shares], 1) for m in (x, y)])
            fakes.append(for_fake)
            reals.append(for_real)
        return losses.hinge_verdict(fakes, reals)

    def _mixed(self, images: Tensor) -> list[Tensor]:
        """The features of images in [-1,1], mixed: [N,width,h,w] of each scale, finest first."""
        maps: list[Tensor] = self.features(images)
        scales = self.get_buffer("scales")
        mixed = [F.conv2d(m * scales[i], self.get_buffer(f"mix_{i}")) for i, m in enumerate(maps)]
        for i in range(len(mixed) - 2, -1, -1):
            coarser = F.interpolate(mixed[i + 1], size=mixed[i].shape[2:], mode="nearest")
            mixed[i] = (mixed[i] + F.conv2d(coarser, self.get_buffer(f"up_{i}"), padding=1)) * 0.5**0.5
        return mixed
