"""Differentiable augmentation of what a discriminator sees (DiffAugment, Zhao et al., NeurIPS 2020).

A discriminator of few photographs soon knows them by heart. Fakes and photographs are changed alike before it looks, by
operations that gradients pass through, so that the generator is not taught to draw the changes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from .semantic import SemanticMap

SHIFT, HOLE = 0.125, 0.5  # largest translation, and side of the square cut out, as shares of height and width
MEMORY = 0.99  # of the average of the loss on photographs, at a step
ADAPT = 1 / 500  # change of the share of changed images, at a step


class Augmentation:
    """Changes of images by ``kinds``, from the step on at which the discriminator has become sure of photographs.

    kinds: of "color", "translation" and "cutout". below: the changes begin once the average of the loss on photographs
    is less than this; then all images are changed, to the end. The loss is relative to that of a discriminator that
    knows nothing, and its average starts at 1.
    adaptive: the share of images that are changed grows while the average is less than ``below``, and shrinks while it
        is more (after Karras et al., NeurIPS 2020, who go by the sign of the scores).
    The device decides, and nothing waits for it.
    """

    def __init__(self, kinds: Collection[str], below: float, device: torch.device, adaptive: bool = False) -> None:
        self.kinds, self.below, self.adaptive = frozenset(kinds), below, adaptive
        self.average = torch.ones((), dtype=torch.float64, device=device)
        self.share = torch.zeros((), dtype=torch.float64, device=device)  # of images that are changed

    def __call__(
        self, semantic: SemanticMap, images: Sequence[Tensor], numbers: Tensor | None
    ) -> tuple[SemanticMap, list[Tensor]]:
        """Return map and batches of images [N,3,H,W] of one dtype, changed if it is time; see :func:`augment`."""
        if not self.kinds or numbers is None:
            return semantic, list(images)
        planes = semantic.planes(semantic.size, images[0].dtype)
        changed, moved = augment(images, planes, numbers, self.kinds)
        which = (numbers[:, -1] < self.share)[:, None, None, None]
        *chosen, planes = (
            torch.where(which, new, old).contiguous(memory_format=torch.channels_last)
            for new, old in zip((*changed, moved), (*images, planes), strict=True)
        )
        return semantic.with_planes(planes), chosen

    def watch(self, loss: Tensor) -> None:
        """Take in the loss on the photographs of a step, relative to that of a discriminator that knows nothing."""
        loss = torch.where(torch.isfinite(loss), loss, self.average).to(self.average.dtype)
        self.average.lerp_(loss, 1 - MEMORY)
        is_sure = (self.average < self.below).to(self.share.dtype)
        if self.adaptive:
            self.share.add_(ADAPT * (2 * is_sure - 1)).clamp_(0, 1)
        else:
            self.share.copy_(torch.maximum(self.share, is_sure))

    def state_dict(self) -> dict[str, Tensor]:
        """The average, and the share of images that are changed."""
        return {"average": self.average, "share": self.share}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.average.copy_(state["average"])
        if "share" in state:  # runs that began before this option have none
            self.share.copy_(state["share"])


def augment(
    images: Sequence[Tensor], planes: Tensor, numbers: Tensor, kinds: Collection[str]
) -> tuple[list[Tensor], Tensor]:
    """Change batches of images [N,3,H,W] in [-1,1], and the planes [N,P,H,W] of their maps, by ``kinds``.

    The i-th images of all batches are changed alike, by numbers[i] of [N,AUGMENT_NUMBERS], uniform in [0,1).
    "color": brightness, saturation and contrast. "translation": by up to an eighth of the size, the map with the
    images; zeros follow. "cutout": zeros in a square of half the size. The last number is for whether to change at all.
    """
    found = list(images)
    light, saturation, contrast, *places, _ = numbers[:, :, None].unbind(1)
    size = planes.shape[2], planes.shape[3]
    if "color" in kinds:
        found = [_recolored(x, light, saturation, contrast) for x in found]
    if "translation" in kinds:
        rows, columns = (_shifted(u, n) for u, n in zip(places[:2], size, strict=True))
        *found, planes = (_moved(x, rows, columns) for x in (*found, planes))
    if "cutout" in kinds:
        inside = [_inside(u, n) for u, n in zip(places[2:], size, strict=True)]
        kept = ~(inside[0][:, None, :, None] & inside[1][:, None, None, :])
        found = [x * kept for x in found]
    return found, planes


def _recolored(x: Tensor, light: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    light, saturation, contrast = (u.to(x.dtype)[..., None, None] for u in (light, saturation, contrast))
    changed = x + (light - 0.5)
    grey = changed.mean(1, keepdim=True)
    changed = (changed - grey) * (2 * saturation) + grey
    mean = changed.mean((1, 2, 3), keepdim=True)
    return (changed - mean) * (contrast + 0.5) + mean


def _shifted(u: Tensor, length: int) -> Tensor:
    """Where each of ``length`` rows or columns comes from, int64 [N,length]; it may lie outside."""
    most = round(length * SHIFT)
    return torch.arange(length, device=u.device) + (u * (2 * most + 1)).long() - most


def _moved(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    for dim, index in ((2, rows[:, None, :, None]), (3, columns[:, None, None, :])):
        length = x.shape[dim]
        there = (index >= 0) & (index < length)
        x = torch.take_along_dim(x, index.clamp(0, length - 1), dim) * there
    return x


def _inside(u: Tensor, length: int) -> Tensor:
    """Which rows or columns the square covers, bool [N,length]; its middle lies anywhere in the image."""
    side = round(length * HOLE)
    begin = (u * (length + 1 - side % 2)).long() - side // 2
    at = torch.arange(length, device=u.device)
    return (at >= begin) & (at < begin + side)
