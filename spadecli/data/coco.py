"""Instance maps from a COCO annotation file: polygons and RLE masks of things, drawn over the label map's regions."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..core.errors import UserError
from ..core.labelspace import LabelSpace
from ..core.sizes import format_size
from .files import check_file

FIRST_INSTANCE = 256  # smaller ids are the channel of a region that belongs to no instance

Size = tuple[int, int]


@dataclass(frozen=True)
class Thing:
    """One annotated object. segmentation: polygons or run lengths (RLE), as in the file."""

    channel: int
    segmentation: Any
    area: float


class CocoInstances:
    """The things of every image in an annotation file such as ``instances_train2017.json``.

    Categories are matched with classes of the label space by name; others are ignored. The whole file is held in
    memory: COCO 2017's takes some 3 GB. Raises UserError if it is not such a file.
    """

    def __init__(self, path: Path, labels: LabelSpace) -> None:
        self.path = path
        self._channel_of = labels.code_to_channel
        check_file(path)
        try:
            tree = json.loads(path.read_bytes())
            categories = {c["id"]: c["name"] for c in tree["categories"]}
            self._images = {Path(i["file_name"]).stem: int(i["id"]) for i in tree["images"]}
            sizes = [(int(i["id"]), i.get("height"), i.get("width")) for i in tree["images"]]
            self._sizes: dict[int, Size] = {image: (int(h), int(w)) for image, h, w in sizes if h and w}
            annotations = [(a["image_id"], a["category_id"], a["segmentation"], a["area"]) for a in tree["annotations"]]
        except (ValueError, KeyError, TypeError) as e:
            raise UserError(
                f"{path}: not a COCO annotation file ({type(e).__name__}: {e})",
                hint="instances_train2017.json and instances_val2017.json are in annotations_trainval2017.zip",
            ) from e
        channels = {c.name: i for i, c in enumerate(labels.classes)}
        if not channels.keys() & set(categories.values()):
            raise UserError(f"{path}: no category is named like a class of label space {labels.name!r}")
        self._things: dict[int, list[Thing]] = defaultdict(list)
        for image, category, segmentation, area in annotations:
            if (channel := channels.get(categories.get(category, ""))) is not None:
                self._things[image].append(Thing(channel, segmentation, area))

    def instance_map(self, key: str, codes: NDArray[np.uint8]) -> NDArray[np.uint32]:
        """Draw instance ids uint32 [H,W] of the photo called ``key``, given its label codes uint8 [H,W].

        The pixels of a class share one id; each thing has its own, on pixels of its class only, so that both maps have
        the same outlines. Where things of a class overlap, the smaller one is on top. If the label map was resized with
        its proportions kept, the annotations are resized with it.
        Raises UserError if the file has no such image, or an annotation does not fit the label map.
        """
        image = self._images.get(Path(key).name)
        if image is None:
            raise UserError(f"{self.path}: no image is called {Path(key).name}")
        channels = self._channel_of[codes]
        ids = channels.astype(np.uint32)
        things = sorted(self._things.get(image, ()), key=lambda thing: -thing.area)
        size = self._size(image, key, (codes.shape[0], codes.shape[1]))
        for number, thing in enumerate(things, FIRST_INSTANCE):
            try:
                mask = _resized(_segmentation_mask(thing.segmentation, size), (codes.shape[0], codes.shape[1]))
            except (ValueError, KeyError, TypeError, IndexError) as e:
                raise UserError(f"{self.path}: image {Path(key).name}: bad segmentation ({e})") from e
            ids[mask & (channels == thing.channel)] = number
        return ids

    def _size(self, image: int, key: str, found: Size) -> Size:
        """Return the (height, width) of the annotated image; the label map's if the file does not give it.

        Raises UserError if the label map was cropped, or belongs to another image.
        """
        size = self._sizes.get(image, found)
        if abs(found[0] * size[1] - found[1] * size[0]) > max(*found, *size):  # more than a pixel of rounding
            raise UserError(
                f"{self.path}: image {Path(key).name} is {format_size(size)}, its label map {format_size(found)}",
                hint="annotations fit label maps of the published size, or resized with their proportions kept",
            )
        return size


def _resized(mask: NDArray[np.bool_], size: Size) -> NDArray[np.bool_]:
    """Resize bool [h,w] by nearest neighbour."""
    if mask.shape == size:
        return mask
    return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))


def _segmentation_mask(segmentation: Any, size: Size) -> NDArray[np.bool_]:
    """Decode an annotation to bool [H,W]: a list of polygons [x0, y0, x1, y1, ...], or run lengths."""
    if isinstance(segmentation, list):
        return polygons_mask(segmentation, size)
    if tuple(segmentation["size"]) != size:
        raise ValueError(f"run lengths for {segmentation['size']}, the image is {list(size)}")
    counts = segmentation["counts"]
    return run_lengths_mask(decompress(counts) if isinstance(counts, str) else counts, size)


def polygons_mask(polygons: list[list[float]], size: Size) -> NDArray[np.bool_]:
    """Draw the union of polygons, including the pixels on their outlines: bool [H,W]."""
    image = Image.new("L", size[::-1])
    draw = ImageDraw.Draw(image)
    for polygon in polygons:
        corners = np.asarray(polygon, np.float64).reshape(-1, 2)
        draw.polygon([(float(x), float(y)) for x, y in corners], fill=1)
    return np.asarray(image).astype(np.bool_)


def run_lengths_mask(counts: list[int], size: Size) -> NDArray[np.bool_]:
    """Expand run lengths, in column-major order and starting with a run of zeros: bool [H,W]."""
    if any(c < 0 for c in counts) or sum(counts) != size[0] * size[1]:
        raise ValueError(f"run lengths add up to {sum(counts)}, the label map has {size[0] * size[1]} pixels")
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return np.asarray(flat.reshape(size[1], size[0]).T)


def decompress(text: str) -> list[int]:
    """Decode run lengths from COCO's compressed text.

    Each character (code - 48) holds five bits, lowest first; its sixth bit says that more follow, and the fifth bit of
    the last one is the sign. From the fourth run on, a number is the difference from the run two before.
    """
    runs: list[int] = []
    value = shift = 0
    for code in text.encode():
        bits = code - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return runs
