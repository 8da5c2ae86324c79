"""Masks are read ahead in threads, the network runs in the calling thread, images are written behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...backends.base import Backend
from ...core.errors import UserError
from ...core.parallel import map_in_order
from ...core.report import Task, count
from ...core.sizes import Size
from .latents import latent
from .load import ChangedMask, LoadedMask, load
from .targets import Image, RenderPlan, Target
from .write import ImageWriter

PIXELS_PER_CALL = {"cpu": 8 * 256 * 256, "cuda": 64 * 256 * 256}
MAX_IMAGES_PER_CALL = 256
MAX_OPEN_BATCHES = 64


@dataclass
class Outcome:
    """Counts of images rendered and skipped and of masks rendered at another size than their own; errors of masks."""

    images: int = 0
    skipped: int = 0
    rounded: int = 0
    failures: list[UserError] = field(default_factory=list)


@dataclass(frozen=True)
class BatchItem:
    """Some samples of one mask, at most a batch of them."""

    mask: LoadedMask
    codes: NDArray[np.uint8]
    images: tuple[Image, ...]


def default_batch(device: str, size: Size) -> int:
    """Images per network call, by the device's kind and the image size (height, width)."""
    pixels = PIXELS_PER_CALL.get(device.partition(":")[0], PIXELS_PER_CALL["cpu"])
    return min(max(1, pixels // (size[0] * size[1])), MAX_IMAGES_PER_CALL)


def check_masks(plan: RenderPlan, num_workers: int, task: Task) -> Outcome:
    """Read every mask once. Raises UserError that lists all that are bad; else says how much is to do."""
    outcome = Outcome()
    for mask in _load_all(plan, num_workers, outcome.failures, check_only=True):
        _count(mask, plan, outcome)
        outcome.images += len(mask.todo)
        task.advance()
    if outcome.failures:
        raise failure_of(plan, outcome.failures, skip="; --skip-bad leaves them out")
    return outcome


def failure_of(plan: RenderPlan, failures: Sequence[UserError], skip: str = "") -> UserError:
    """One error for what is wrong with several masks; of a single mask, its own error."""
    if len(plan.targets) == 1:
        return failures[0]
    return UserError(
        f"{plan.options.masks}: {len(failures)} of {len(plan.targets)} masks cannot be rendered",
        problems=[e.line for e in failures],
        hint=advice(failures) + skip,
    )


def advice(failures: Sequence[UserError]) -> str:
    """What to do about bad masks, about changed masks, or about both."""
    changed = [e.hint for e in failures if isinstance(e, ChangedMask)]
    bad = ["repair or remove bad masks"] if len(changed) < len(failures) else []
    return "; ".join(bad + changed[:1])


def render_masks(plan: RenderPlan, writer: ImageWriter, num_workers: int, task: Task) -> Outcome:
    """Render every image that is not there yet; bad masks are left out and listed in the outcome."""
    backend, outcome = plan.source.backend, Outcome()
    batches = _Batches(backend.device, plan.options.batch)

    def run(items: Sequence[BatchItem]) -> None:
        for item, outputs in zip(items, _run_batch(backend, items), strict=True):
            if item.images[0] is item.mask.todo[0]:
                writer.write_mask(item.mask, backend.card.labels)
            for image, output in zip(item.images, outputs, strict=True):
                writer.write_image(item.mask, image, output)
        num_images = sum(len(item.images) for item in items)
        outcome.images += num_images
        task.advance(num_images)

    for mask in _load_all(plan, num_workers, outcome.failures):
        _count(mask, plan, outcome)
        task.advance(plan.images_per_mask - len(mask.todo))
        if not mask.todo:
            writer.write_mask(mask, backend.card.labels)
        batches.add(mask, run)
    batches.finish(run)
    return outcome


def _count(mask: LoadedMask, plan: RenderPlan, outcome: Outcome) -> None:
    outcome.skipped += plan.images_per_mask - len(mask.todo)
    outcome.rounded += mask.is_rounded


class _Batches:
    """Gathers items that can share a network call: equal size, equal number of samples."""

    def __init__(self, device: str, batch: int | None) -> None:
        self._device, self._batch = device, batch
        self._open: dict[tuple[Size, int], list[BatchItem]] = {}

    def add(self, mask: LoadedMask, run: Callable[[Sequence[BatchItem]], None]) -> None:
        """Take a mask's images in; run what fills a batch."""
        if mask.codes is None:
            return
        height, width = mask.codes.shape
        batch = self._batch or default_batch(self._device, (height, width))
        for start in range(0, len(mask.todo), batch):
            images = mask.todo[start : start + batch]
            key = ((height, width), len(images))
            items = self._open.setdefault(key, [])
            items.append(BatchItem(mask, mask.codes, images))
            if (len(items) + 1) * len(images) > batch:
                run(self._open.pop(key))
        if len(self._open) > MAX_OPEN_BATCHES:  # masks of many sizes: bound what waits in memory
            run(self._open.pop(max(self._open, key=lambda k: len(self._open[k]))))

    def finish(self, run: Callable[[Sequence[BatchItem]], None]) -> None:
        """Run what is left."""
        for items in self._open.values():
            run(items)
        self._open.clear()


def _run_batch(backend: Backend, items: Sequence[BatchItem]) -> Iterator[NDArray[np.float32]]:
    """Outputs of one network call, item by item: float32 [S,3,H,W] each.

    Raises UserError where the device has too little memory, or where an output is not finite.
    """
    labels = np.stack([item.codes for item in items])
    edges = None
    if any(item.mask.edges is not None for item in items):
        edges = np.stack([np.zeros_like(i.codes) if i.mask.edges is None else i.mask.edges for i in items])
    arch = backend.card.architecture
    images = [image for item in items for image in item.images]
    z = np.stack([latent(image.style, image.seed, arch.z_dim) for image in images]) if arch.uses_z else None
    try:
        outputs = backend.run(labels, edges, z)
    except MemoryError as e:
        height, width = labels.shape[1:]
        large = "--tile computes large images in parts; or give a smaller --size"
        raise UserError(
            f"out of memory on {backend.device} with {count(len(images), 'image')} of {height}x{width} in a call",
            hint=f"--batch {len(images) // 2} halves it" if len(images) > 1 else large,
        ) from e
    if not np.isfinite(outputs).all():
        file = next(i.file for i, output in zip(images, outputs, strict=True) if not np.isfinite(output).all())
        raise UserError(
            f"{file}: the network's output is not finite",
            hint="the weights are damaged or overflow: train or convert them again",
        )
    return iter(outputs.reshape(len(items), -1, *outputs.shape[1:]))


def _load_all(
    plan: RenderPlan, num_workers: int, failures: list[UserError], check_only: bool = False
) -> Iterator[LoadedMask]:
    """Masks in order, read ahead by threads in bounded number; what bad ones raise goes to ``failures``."""

    def load_or_tell(target: Target) -> LoadedMask | UserError:
        try:
            return load(plan, target, check_only)
        except UserError as e:
            return e
        except OSError as e:
            return UserError(f"{target.mask}: cannot be read ({e.strerror})")

    for result in map_in_order(load_or_tell, plan.targets, num_workers):
        if isinstance(result, UserError):
            failures.append(result)
        else:
            yield result
