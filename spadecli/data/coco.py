"""Instance maps from a COCO annotation file: the things' polygons and run lengths over the label map's regions."""

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

FIRST_INSTANCE = 256  # below it: the channel of a region that belongs to no instance

Size = tuple[int, int]


@dataclass(frozen=True)
class Thing:
    """One annotated object. ``segmentation``: polygons, or run lengths, as COCO writes them."""

    channel: int
    segmentation: Any
    area: float


class CocoInstances:
    """The things of every image of an annotation file such as ``instances_train2017.json``.

    Categories are matched with classes of the label space by name; others are left out. The file is read as a
    whole: COCO 2017's takes some 3 GB of memory. Raises UserError where it is not such a file.
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
            raise UserError(f"{path}: no category has the name of a class of label space {labels.name!r}")
        self._things: dict[int, list[Thing]] = defaultdict(list)
        for image, category, segmentation, area in annotations:
            if (channel := channels.get(categories.get(category, ""))) is not None:
                self._things[image].append(Thing(channel, segmentation, area))

    def instance_map(self, key: str, codes: NDArray[np.uint8]) -> NDArray[np.uint32]:
        """Instance ids uint32 [H,W] of the photo called ``key`` for its label codes uint8 [H,W].

        A region of one class is one id; each thing in it has an id of its own, and covers pixels of its class
        only, so that both maps have the same outlines. Where things of a class overlap the smaller is on top. A
        label map that was resized, its proportions kept, has its annotations resized with it.
        Raises UserError where the file has no such image, or an annotation does not fit the label map.
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
        """(height, width) that the annotations are for; the label map's own where the file does not say.

        Raises UserError where the label map was cut, or is another image's.
        """
        size = self._sizes.get(image, found)
        if abs(found[0] * size[1] - found[1] * size[0]) > max(*found, *size):  # more than a pixel of rounding
            raise UserError(
                f"{self.path}: image {Path(key).name} is {format_size(size)}, its label map {format_size(found)}",
                hint="annotations fit label maps of the published sizes, or resized with their proportions",
            )
        return size


def _resized(mask: NDArray[np.bool_], size: Size) -> NDArray[np.bool_]:
    """bool [h,w] at another size, nearest."""
    if mask.shape == size:
        return mask
    return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))


def _segmentation_mask(segmentation: Any, size: Size) -> NDArray[np.bool_]:
    """bool [H,W] of an annotation: a list of polygons [x0, y0, x1, y1, ...], or run lengths."""
    if isinstance(segmentation, list):
        return polygons_mask(segmentation, size)
    if tuple(segmentation["size"]) != size:
        raise ValueError(f"run lengths for {segmentation['size']}, the image is {list(size)}")
    counts = segmentation["counts"]
    return run_lengths_mask(decompress(counts) if isinstance(counts, str) else counts, size)


def polygons_mask(polygons: list[list[float]], size: Size) -> NDArray[np.bool_]:
    """bool [H,W]: the union of polygons, with the pixels that their outlines touch."""
    image = Image.new("L", size[::-1])
    draw = ImageDraw.Draw(image)
    for polygon in polygons:
        corners = np.asarray(polygon, np.float64).reshape(-1, 2)
        draw.polygon([(float(x), float(y)) for x, y in corners], fill=1)
    return np.asarray(image).astype(np.bool_)


def run_lengths_mask(counts: list[int], size: Size) -> NDArray[np.bool_]:
    """bool [H,W] of run lengths that go down the columns and begin with a run of zeros."""
    if any(c < 0 for c in counts) or sum(counts) != size[0] * size[1]:
        raise ValueError(f"run lengths add up to {sum(counts)}, the label map has {size[0] * size[1]} pixels")
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return np.asarray(flat.reshape(size[1], size[0]).T)


def decompress(text: str) -> list[int]:
    """Run lengths from COCO's text form.

    Five bits a character (code - 48), lowest first; bit 6 says that more follow, and the last one's fifth is
    the sign. From the fourth run on a number is the difference to the run before the last.
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
