"""The distinct windows of a batch at every size of the generator, found by the data loader and sent in one copy.

They depend on the label maps alone, so the data loader's workers find them. The training loop on the host can thus run
ahead of the device: it never waits to learn the number of windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from ..core.architecture import Architecture
from ..core.recipe import Recipe
from ..core.sizes import Size
from .find import find_windows, num_codes, sampled_codes
from .modulate import is_worthwhile
from .segments import TrainingWindows

WindowsBySize = dict[tuple[Size, int], TrainingWindows | None]  # by size and kernel; None: use the plain form


class BatchWindows:
    """The windows of a batch at several sizes, in one int32 tensor. It can be moved and pinned like a tensor.

    flat: the tensors of every size, one after the other. shapes: their shapes, by size; None for a size that uses the
    plain form.
    """

    def __init__(self, flat: Tensor, kernel: int, shapes: Mapping[Size, Sequence[tuple[int, ...]] | None]) -> None:
        self.flat, self.kernel, self.shapes = flat, kernel, dict(shapes)

    @classmethod
    def find(
        cls, channels: Tensor, edges: Tensor | None, num_classes: int, sizes: Sequence[Size], kernel: int, every: bool
    ) -> BatchWindows:
        """Find the windows of channels [M,H,W] and edges (see SemanticMap), at ``every`` size or where worthwhile."""
        tensors: list[Tensor] = []
        shapes: dict[Size, list[tuple[int, ...]] | None] = {}
        for size in sizes:
            found = find_windows(sampled_codes(channels, edges, size), kernel)
            windows = TrainingWindows.build(found, num_codes(num_classes, edges is not None))
            used = windows.tensors() if every or is_worthwhile(windows.share) else []
            tensors += [t.flatten() for t in used]
            shapes[size] = [tuple(t.shape) for t in used] or None
        flat = torch.cat(tensors) if tensors else torch.empty(0, dtype=torch.int32)
        return cls(flat, kernel, shapes)

    def to(self, device: torch.device, non_blocking: bool = False) -> BatchWindows:
        """Return the windows on a device."""
        return BatchWindows(self.flat.to(device, non_blocking=non_blocking), self.kernel, self.shapes)

    def pin_memory(self) -> BatchWindows:
        """Return the windows in pinned memory; called by the data loader."""
        return BatchWindows(self.flat.pin_memory(), self.kernel, self.shapes)

    def tensor_split(self, parts: int) -> list[BatchWindows]:
        """Split into one part, the only number possible here. Raises ValueError for any other."""
        return PartedWindows([self]).tensor_split(parts)

    def by_size(self) -> WindowsBySize:
        """Return the ``windows`` argument of SemanticMap, as views of ``flat``."""
        found: WindowsBySize = {}
        begin = 0
        for size, shapes in self.shapes.items():
            tensors = []
            for shape in shapes or []:
                length = torch.Size(shape).numel()
                tensors.append(self.flat[begin : begin + length].view(shape))
                begin += length
            found[size, self.kernel] = TrainingWindows.of_tensors(tensors) if tensors else None
        return found


class PartedWindows:
    """The windows of each micro-batch; splits like a tensor, but only into the number of parts it was made for."""

    def __init__(self, parts: Sequence[BatchWindows]) -> None:
        self.parts = list(parts)

    def tensor_split(self, parts: int) -> list[BatchWindows]:
        """Return the windows of each part. Raises ValueError for another number of parts."""
        if parts != len(self.parts):
            raise ValueError(f"windows of {len(self.parts)} parts of a batch cannot be split into {parts}")
        return self.parts

    def pin_memory(self) -> PartedWindows:
        """Return the windows in pinned memory; called by the data loader."""
        return PartedWindows([t.pin_memory() for t in self.parts])


class CollateWindows:
    """Collate function of the data loader: the default one, plus ``windows`` of the label maps.

    parts: number of micro-batches that the batch is split into.
    """

    def __init__(self, recipe: Recipe, parts: int = 1) -> None:
        self.num_classes, self.kernel, self.parts = recipe.labels.num_classes, recipe.model.kernel, parts
        self.arch, self.every = recipe.model, recipe.train.modulation == "fast"

    def __call__(self, items: list[dict[str, Tensor]]) -> dict[str, Any]:
        """Collate items of a TrainingSet to a batch."""
        batch: dict[str, Any] = default_collate(items)
        batch["windows"] = self.windows(batch)
        return batch

    def windows(self, batch: Mapping[str, Tensor]) -> BatchWindows | PartedWindows:
        """Find the windows of a batch, of whole label maps or of parts of them."""
        height, width = batch["channels"].shape[1:]
        sizes = level_sizes(self.arch.model_copy(update={"size": (height, width)}))
        channels = batch["channels"].tensor_split(self.parts)
        edges = batch["edges"].tensor_split(self.parts) if "edges" in batch else [None] * self.parts
        parts = [
            BatchWindows.find(c, e, self.num_classes, sizes, self.kernel, self.every)
            for c, e in zip(channels, edges, strict=True)
        ]
        return parts[0] if self.parts == 1 else PartedWindows(parts)


def collate_for(recipe: Recipe, device: torch.device, parts: int = 1) -> CollateWindows | None:
    """Return the collate function for training a recipe on a device; None (the default) if no windows are used."""
    if recipe.model.conditioning != "spade" or recipe.train.modulation == "plain":
        return None
    if recipe.train.modulation == "auto" and device.type != "cpu":
        return None  # see SemanticMap
    return CollateWindows(recipe, parts)


def level_sizes(arch: Architecture) -> list[Size]:
    """Return the sizes of the generator's feature maps, largest first."""
    return [(arch.size[0] >> i, arch.size[1] >> i) for i in range(arch.num_upsamples + 1)]
