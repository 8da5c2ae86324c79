"""Discriminators by name, each with its own losses; "patch" is the paper's (appendix A, figure 13).

To add one: write a module with the methods of :class:`Discriminator` in a file of its own, enter it in
:data:`DISCRIMINATORS`, and add its name to ``discriminator.kind`` of the recipe (core/recipe.py). Called with semantic
map, fakes, photographs and :class:`BatchClasses`, it returns a :class:`Verdict`: its losses and the generator's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.recipe import Recipe
from . import losses
from .feature_maps import FEATURE_NETWORKS
from .layers import conv, convolve_all, instance_norm
from .losses import Verdict
from .projected import ProjectedDiscriminator
from .segmentation import SegmentationDiscriminator
from .semantic import BatchClasses, SemanticMap

MAX_WIDTH = 512
LEAK = 0.2


class PatchDiscriminator(nn.Module):
    """Five 4x4 convolutions; the middle three have spectral and instance norm."""

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

    def forward(self, planes: Tensor, images: Sequence[Tensor]) -> list[list[Tensor]]:
        """Planes [N,P,H,W] of the semantic map and batches of images [N,3,H,W] -> for each batch the four inner
        feature maps, then the patch scores [N,1,h,w].

        Each layer's weight is normalized once for all batches, and the first layer is applied to the planes only once.
        """
        first, *rest = cast(list[nn.Conv2d], list(self.layers))
        map_weight, image_weight = torch.split(first.weight, [planes.shape[1], 3], 1)
        from_map = F.conv2d(planes, map_weight, first.bias, stride=2, padding=2)
        xs = [from_map + F.conv2d(image, image_weight, stride=2, padding=2) for image in images]
        xs = [F.leaky_relu(x, LEAK) for x in xs]
        maps = [[x] for x in xs]
        for layer in rest:
            xs = convolve_all(layer, xs)
            if layer is not rest[-1]:
                xs = [F.leaky_relu(instance_norm(x), LEAK) for x in xs]
            for found, x in zip(maps, xs, strict=True):
                found.append(x)
        return maps


class Discriminator(nn.Module):
    """Multi-scale PatchGAN: one patch discriminator per scale, on the semantic map and the average-pooled image."""

    chance_loss = 1.0  # d_real where every score is 0

    def __init__(self, semantic_channels: int, ndf: int = 64, num_scales: int = 2) -> None:
        super().__init__()
        self.scales = nn.ModuleList(PatchDiscriminator(semantic_channels + 3, ndf) for _ in range(num_scales))

    def forward(
        self, semantic: SemanticMap, fake: Tensor, real: Tensor, classes: BatchClasses | None = None
    ) -> Verdict:
        """Fakes and photos [N,3,H,W] of N semantic maps -> hinge losses, and the maps of each scale.

        All norms are per image, so that no result depends on the rest of the batch.
        """
        planes = semantic.planes(semantic.size, fake.dtype)
        images = [fake, real.to(fake.dtype)]
        fakes, reals = [], []
        for i, scale in enumerate(self.scales):
            if i:
                planes, *images = [_half(x) for x in (planes, *images)]
            of_fake, of_real = scale(planes, images)
            fakes.append(of_fake)
            reals.append(of_real)
        return losses.hinge_verdict(fakes, reals)

    def semantic_offsets(self) -> dict[str, int]:
        """Weights that see the map, and where the semantic channels begin among their inputs."""
        return {f"scales.{i}.layers.0.weight": 0 for i in range(len(self.scales))}

    def load_frozen(self, weights: Path | None) -> None:
        """Do nothing: all of it is trained."""


def _patch(recipe: Recipe) -> Discriminator:
    section = recipe.discriminator
    return Discriminator(recipe.labels.semantic_channels, section.ndf, section.num_scales)


def _projected(recipe: Recipe) -> ProjectedDiscriminator:
    section = recipe.discriminator
    features = FEATURE_NETWORKS[section.features]()
    return ProjectedDiscriminator(recipe.labels.semantic_channels, features, section.ndf, section.color_heads)


def _segmentation(recipe: Recipe) -> SegmentationDiscriminator:
    section, labels = recipe.discriminator, recipe.labels
    depth = recipe.discriminator_depth
    return SegmentationDiscriminator(labels.num_classes, labels.unknown_channel, depth, section.ndf, section.label_mix)


AnyDiscriminator = Discriminator | ProjectedDiscriminator | SegmentationDiscriminator
DISCRIMINATORS: dict[str, Callable[[Recipe], AnyDiscriminator]] = {
    "patch": _patch,
    "projected": _projected,
    "segmentation": _segmentation,
}


def build_discriminator(recipe: Recipe) -> AnyDiscriminator:
    """Build the discriminator that a recipe names."""
    return DISCRIMINATORS[recipe.discriminator.kind](recipe)


def _half(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
