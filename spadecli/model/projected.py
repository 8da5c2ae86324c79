"""A projected discriminator (Sauer et al., NeurIPS 2021): small heads on frozen features, which see the label map too.

The features of an ImageNet network are scaled to unit mean square, then mixed across channels, and from coarse to fine
across scales, by fixed random convolutions, so that a generator cannot please a few channels alone. Only the heads are
trained. With little data they give useful gradients long before a patch discriminator, trained from scratch, does.

The features were learned to tell objects apart, whatever the light: two more heads, not in the paper, see colours.
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
COLOR_SQUARES = (4, 16)
GROUP = 4  # images over which the spread of colours is taken, as in StyleGAN (Karras et al., CVPR 2019)


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
    """Heads of ``width`` channels on every scale of ``features`` and, if ``color_heads``, on colours."""

    chance_loss = 1.0  # d_real where every score is 0

    def __init__(
        self, semantic_channels: int, features: FeatureMaps, width: int = 64, color_heads: bool = False
    ) -> None:
        super().__init__()
        self.features, self.width = features, width
        random = torch.Generator().manual_seed(MIX_SEED)
        for i, channels in enumerate(features.channels):
            mix = torch.randn(width, channels, 1, 1, generator=random) / channels**0.5
            self.register_buffer(f"mix_{i}", mix)
            up = torch.randn(width, width, 3, 3, generator=random) / (9 * width) ** 0.5
            self.register_buffer(f"up_{i}", up)
        self.register_buffer("scales", torch.ones(len(features.channels)))
        self._inputs = [width] * len(features.channels) + [6] * (len(COLOR_SQUARES) if color_heads else 0)
        self.color_heads = color_heads
        self.heads = nn.ModuleList(Head(channels + semantic_channels, width) for channels in self._inputs)

    def semantic_offsets(self) -> dict[str, int]:
        """Weights that see the map, and where the semantic channels begin among their inputs."""
        return {f"heads.{i}.layers.0.weight": channels for i, channels in enumerate(self._inputs)}

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
            of_real = self._seen(real.to(fake.dtype))
        of_fake = self._seen(fake)
        planes = semantic.planes(semantic.size, fake.dtype)
        fakes, reals = [], []
        for head, x, y in zip(self.heads, of_fake, of_real, strict=True):
            shares = F.adaptive_avg_pool2d(planes, (x.shape[2], x.shape[3]))
            for_fake, for_real = head([torch.cat([m, shares], 1) for m in (x, y)])
            fakes.append(for_fake)
            reals.append(for_real)
        return losses.hinge_verdict(fakes, reals)

    def _seen(self, images: Tensor) -> list[Tensor]:
        """What the heads look at, [N,C,h,w] of each."""
        return [*self._mixed(images), *(_colors(images, side) for side in COLOR_SQUARES if self.color_heads)]

    def _mixed(self, images: Tensor) -> list[Tensor]:
        """The features of images in [-1,1], mixed: [N,width,h,w] of each scale, finest first."""
        maps: list[Tensor] = self.features(images)
        scales = self.get_buffer("scales")
        mixed = [F.conv2d(m * scales[i], self.get_buffer(f"mix_{i}")) for i, m in enumerate(maps)]
        for i in range(len(mixed) - 2, -1, -1):
            coarser = F.interpolate(mixed[i + 1], size=mixed[i].shape[2:], mode="nearest")
            mixed[i] = (mixed[i] + F.conv2d(coarser, self.get_buffer(f"up_{i}"), padding=1)) * 0.5**0.5
        return mixed


def _colors(images: Tensor, side: int) -> Tensor:
    """Images [N,3,H,W] -> [N,6,H/side,W/side]: mean colours of squares; deviation of the images' mean colours in each
    :data:`GROUP` of consecutive ones, the same everywhere. Both are scaled to about 1."""
    squares = F.avg_pool2d(images, side)
    means = torch.split(images.mean((2, 3)), GROUP)
    spread = torch.cat([(m.var(0, correction=0) + 1e-6).sqrt().expand(len(m), -1) for m in means])
    return torch.cat([2 * squares, 4 * spread[:, :, None, None].expand_as(squares)], 1)
