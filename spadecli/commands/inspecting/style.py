"""How much style weights use, and whether colours carry from a photo to other masks: measured on photos and masks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...backends import Backend, open_backend
from ...core.errors import UserError
from ...core.report import Report
from ...data.folder import Item, scan
from ...data.masks import read_mask, read_photo, resize_codes, resize_photo
from ...data.pixels import image_bytes
from ...metrics.color import mean_lab
from ...metrics.style import encode_all, match, style_usage
from ..styling.encode import check_encoder, read_values

T = TypeVar("T")

MAX_PHOTOS = 200
MAX_MASKS = 10
MAX_REFERENCES = 10
SHOWN_KL = 8  # dimensions


def measure_style(
    weights: Path, photos: Path, masks: Path | None, names: Collection[str], device: str, report: Report
) -> dict[str, Any]:
    """What the style code of weights does, as plain JSON values.

    ``usage``: see :class:`spadecli.metrics.style.StyleUsage`, on MAX_PHOTOS photos and MAX_MASKS masks at most. Where
    photos and masks pair by name, also ``carry``: each of some masks is rendered in the style of each of some other
    photos, z = mu, and its colour is compared with that of its own reference and of the others: mean CIE L*a*b* of
    the whole picture, and of the class that covers most pixels.
    masks: None for the example masks, which fit the facades. names: only these, all where empty.
    Raises UserError where the weights have no encoder, or files cannot be read.
    """
    with open_backend(weights, device) as backend:
        check_encoder(backend, weights)
        photo_items = _named(scan(photos, "photos"), names, photos)
        values = np.stack(
            [read_values(i.path, backend.card.architecture.size) for i in _spread(photo_items, MAX_PHOTOS)]
        )
        mask_items = _named(scan(masks), names, masks) if masks is not None else []
        if masks is None:
            labels = _examples(backend)
        else:
            labels = np.stack([_codes(backend, item.path) for item in _spread(mask_items, MAX_MASKS)])
        report.note(f"rendering {len(labels)} masks to see what z changes", level=1)
        found: dict[str, Any] = {"usage": style_usage(backend, labels, values).as_json()}
        pairs = {item.key: item for item in photo_items}
        both = [(pairs[item.key], item) for item in mask_items if item.key in pairs]
        if len(both) >= 4:
            found["carry"] = _colors(backend, both)
    return found


def _colors(backend: Backend, pairs: Sequence[tuple[Item, Item]]) -> dict[str, Any]:
    """Colours of renders against those of references, which are of other pairs than the masks."""
    references, targets = _spread(pairs[::2], MAX_REFERENCES), _spread(pairs[1::2], MAX_MASKS)
    size = backend.card.architecture.size
    mu, _ = encode_all(backend, np.stack([read_values(photo.path, size) for photo, _ in references]))
    pictures = [resize_photo(read_photo(photo.path), size) for photo, _ in references]
    codes = [_codes(backend, mask.path) for _, mask in references]
    largest = int(np.bincount(np.concatenate([c.ravel() for c in codes])).argmax())
    whole, part, again = [], [], []
    for _, mask in targets:
        own = _codes(backend, mask.path)
        outputs = backend.run(own[None], None, mu)
        images = [image_bytes(output) for output in outputs]
        whole.append([mean_lab(image) for image in images])
        part.append([mean_lab(image, own == largest) for image in images])
        again.append(encode_all(backend, np.clip(outputs, -1, 1))[0])
    channel = backend.card.labels.code_to_channel[largest]
    name = backend.card.labels.classes[channel].name
    photo_part = np.stack([mean_lab(p, c == largest) for p, c in zip(pictures, codes, strict=True)])
    return {
        f"color_of_{name}": match(np.array(part), photo_part).as_json(),
        "color": match(np.array(whole), np.stack([mean_lab(p) for p in pictures])).as_json(),
        "encoded_back": match(np.array(again), mu).as_json(),
        "references": [photo.key for photo, _ in references],
        "masks": [mask.key for _, mask in targets],
    }


def style_in_short(found: dict[str, Any]) -> dict[str, Any]:
    """The same for people: the largest dimensions only."""
    usage = dict(found["usage"])
    usage["kl"] = usage["kl"][:SHOWN_KL]
    usage["active"] = f"{usage['active']} of {usage['z_dim']} dimensions"
    return {"usage": usage, **{k: v for k, v in found.items() if k != "usage"}}


def _examples(backend: Backend) -> NDArray[np.uint8]:
    from ...data.layouts import EXAMPLES, draw

    masks = np.stack([draw(layout) for layout in EXAMPLES.values()])
    known = backend.card.labels.code_to_channel[np.unique(masks)] >= 0
    if not known.all() or backend.card.labels.name != "facades":
        raise UserError(
            f"the example masks do not fit label space {backend.card.labels.name!r}", hint="give --masks DIR too"
        )
    return masks


def _codes(backend: Backend, path: Path) -> NDArray[np.uint8]:
    # a copy: torch warns about arrays that cannot be written to, and Pillow gives such
    return np.array(resize_codes(read_mask(path, backend.card.labels), backend.card.architecture.size))


def _named(items: list[Item], names: Collection[str], folder: Path) -> list[Item]:
    found = [item for item in items if item.key in names] if names else items
    if not found:
        raise UserError(f"{folder}: none of the {len(items)} files has a name that is held out")
    return found


def _spread(items: Sequence[T], most: int) -> Sequence[T]:
    """At most so many, evenly spread."""
    return items if len(items) <= most else [items[i * len(items) // most] for i in range(most)]
