"""From a mask file to what the network eats: label codes and edges at the size to render."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...core.errors import UserError
from ...core.labelspace import LabelSpace
from ...core.sizes import Size, round_to_stride
from ...data.edges import connected_components, instance_edges
from ...data.masks import read_instances, read_mask, resize_codes, resize_instances
from ...store.h5 import file_sha256
from ...store.manifest import Row
from .options import edge_source
from .targets import Image, RenderPlan, Target


class ChangedMask(UserError):
    """A mask of which images are there that were made from another version of it."""


@dataclass(frozen=True)
class LoadedMask:
    """A mask that is ready to render, and which of its images are still to be made.

    codes: uint8 [H,W] label codes; edges: uint8 [H,W] or None for zeros. Both None if there is nothing left
    to do. row: the manifest's ``mask`` row.
    """

    target: Target
    row: Row
    source_size: Size
    codes: NDArray[np.uint8] | None
    edges: NDArray[np.uint8] | None
    todo: tuple[Image, ...]
    needs_color: bool

    @property
    def is_rounded(self) -> bool:
        """Whether the size to render differs from the mask's own."""
        return bool(list(self.source_size) != self.row["size"])


def load(plan: RenderPlan, target: Target, check_only: bool = False) -> LoadedMask:
    """Read a mask, unless all of its images are there. Safe to call from several threads.

    check_only: read it in any case, but make no components, which take longer than all the rest.
    Raises UserError where the mask is bad, ChangedMask where images of another version of it are there.
    """
    mask_sha256 = file_sha256(target.mask)
    instances_sha256 = file_sha256(target.instances) if target.instances else ""
    hashes = (mask_sha256, instances_sha256)
    todo = tuple(image for image in plan.images(target) if not _is_done(plan, target, image, *hashes))
    row = plan.journal.masks.get(target.key)
    known = row is not None and row["sha256"] == mask_sha256 and row["options"] == plan.row["id"]
    needs_color = plan.options.gallery and not (known and (plan.options.out / target.colored_file).exists())
    if row is not None and known and not (todo or needs_color or check_only):
        height, width = row["source_size"]
        return LoadedMask(target, row, (height, width), None, None, todo, needs_color)
    codes, edges, source_size = _decode(plan, target, with_components=not check_only)
    row = _mask_row(plan, target, codes, source_size, mask_sha256, instances_sha256)
    return LoadedMask(target, row, source_size, codes, edges, todo, needs_color)


def _is_done(plan: RenderPlan, target: Target, image: Image, mask_sha256: str, instances_sha256: str) -> bool:
    row = plan.journal.images.get(image.file)
    path = plan.options.out / image.file
    if row is None or not path.exists():
        return False
    if row["digest"] == plan.digest(image, mask_sha256, instances_sha256):
        return bool(row.get("num_bytes") == path.stat().st_size)  # else cut off or replaced: made again
    if not plan.options.overwrite:
        raise ChangedMask(
            f"{target.mask}: changed since {path} was rendered from it",
            hint="replace its images with --overwrite, or give another folder with -o",
        )
    return False


def _decode(
    plan: RenderPlan, target: Target, with_components: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None, Size]:
    """Label codes and edges at the size to render, and the mask's own size."""
    options, card = plan.options, plan.source.backend.card
    codes = read_mask(target.mask, card.labels, options.mask_format)
    own = (codes.shape[0], codes.shape[1])
    size = options.size or card.architecture.size
    if size == "native":
        size = round_to_stride(own, card.architecture.stride)
    edges = None
    if target.instances is not None:
        ids = read_instances(target.instances)
        if ids.shape != codes.shape:
            raise UserError(
                f"{target.instances}: {ids.shape[0]}x{ids.shape[1]}, but its mask {target.mask} is {own[0]}x{own[1]}"
            )
        edges = instance_edges(resize_instances(ids, size))
    codes = resize_codes(codes, size)
    if with_components and edge_source(options, card) == "components":
        edges = instance_edges(connected_components(codes))
    return codes, edges, own


def _mask_row(
    plan: RenderPlan, target: Target, codes: NDArray[np.uint8], own: Size, mask_sha256: str, instances_sha256: str
) -> Row:
    return {
        "kind": "mask",
        "mask": target.key,
        "path": str(target.mask),
        "sha256": mask_sha256,
        "instances": str(target.instances) if target.instances else None,
        "instances_sha256": instances_sha256,
        "source_size": list(own),
        "size": list(codes.shape),
        "options": plan.row["id"],
        "shares": class_shares(codes, plan.source.backend.card.labels),
        "colored": target.colored_file,
    }


def class_shares(codes: NDArray[np.uint8], labels: LabelSpace) -> dict[str, float]:
    """Class name -> share of the pixels, for the classes that label codes uint8 [H,W] hold; largest first."""
    counts = np.bincount(codes.ravel(), minlength=256)
    pixels = np.bincount(labels.code_to_channel[counts > 0], counts[counts > 0], labels.num_classes)
    order = sorted(np.flatnonzero(pixels), key=lambda channel: -pixels[channel])
    return {labels.classes[channel].name: round(float(pixels[channel]) / codes.size, 5) for channel in order}
