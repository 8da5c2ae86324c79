"""How much of the style code weights use, and whether renders have the colours of their reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...backends import Backend, open_backend
from ...core.errors import UserError
from ...core.labelspace import LabelSpace
from ...core.recipe_files import shipped_examples, shipped_sets
from ...core.report import Report
from ...data.folder import Item
from ...data.masks import MaskFormat, read_mask, read_photo, resize_codes, resize_photo
from ...data.pixels import image_bytes
from ...metrics.color import mean_lab
from ...metrics.style_usage import Match, StyleUsage, encode_all, match, style_usage
from .encode import check_encoder, read_values

T = TypeVar("T")

MAX_PHOTOS = 200
MAX_MASKS = 10
MAX_REFERENCES = 10
SHOWN_KL = 8  # dimensions


@dataclass(frozen=True)
class StyleFindings:
    """How the style code of weights is used.

    consistency: measured if photos and masks pair by name. Each of some masks (``masks``) is rendered in the style of
        each of some other photos (``references``), z = mu, and compared with its own reference and with the others:
        by mean CIE L*a*b* of the whole picture ("color") and of the class that covers most pixels
        ("color_of_CLASS"), and by mu of the picture encoded back ("encoded_back").
    """

    usage: StyleUsage
    consistency: Mapping[str, Match] = field(default_factory=dict)
    references: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values, for cards and programs."""
        found: dict[str, Any] = {"usage": self.usage.as_json()}
        if self.consistency:
            matches = {name: m.as_json() for name, m in self.consistency.items()}
            # the name that cards of weights have for it
            found["carry"] = {**matches, "references": list(self.references), "masks": list(self.masks)}
        return found

    def rows(self) -> list[tuple[str, str]]:
        """(name, value) for people."""
        u = self.usage
        masks = f"{u.num_samples} samples of {u.num_masks} masks"
        rows = [("variance that z explains", f"{u.z_share:.1%} ({masks})")]
        if u.kl is None:
            rows.append(("active latent dimensions, KL", "not measured: needs an encoder and photographs of the masks"))
        else:
            rows.append(("active latent dimensions", f"{u.active} of {u.z_dim} ({u.num_photos} photographs)"))
            rows.append(("KL", f"{u.kl_total:.1f} nats, of one dimension {u.kl[-1]:.2g} to {u.kl[0]:.2g}"))
        return rows + [
            (name.replace("color", "colour").replace("_", " "), match_words(m)) for name, m in self.consistency.items()
        ]


def measure_style(
    weights: Path,
    photos: Sequence[Item],
    masks: Sequence[Item] | None,
    device: str,
    report: Report,
    mask_format: MaskFormat = "auto",
) -> StyleFindings:
    """Measure on MAX_PHOTOS photos and MAX_MASKS masks at most, evenly spread.

    photos: none, to leave out what needs an encoder. masks: None for the example masks, which fit the facades.
    Raises UserError where the weights have no z or, with photos, no encoder, or files cannot be read.
    """
    with open_backend(weights, device) as backend:
        if photos:
            check_encoder(backend, weights)
        size = backend.card.architecture.size
        values = np.stack([read_values(i.path, size) for i in _spread(photos, MAX_PHOTOS)]) if photos else None
        paths = _example_masks(backend.card.labels) if masks is None else [m.path for m in _spread(masks, MAX_MASKS)]
        labels = np.stack([_codes(backend, path, mask_format) for path in paths])
        report.note(f"rendering {len(labels)} masks to see what z changes", level=1)
        usage = style_usage(backend, labels, values)
        pictures = {item.key: item for item in photos}
        both = [(pictures[item.key], item) for item in masks or () if item.key in pictures]
        return _consistency(usage, backend, both, mask_format) if len(both) >= 4 else StyleFindings(usage)


def _consistency(
    usage: StyleUsage, backend: Backend, pairs: Sequence[tuple[Item, Item]], mask_format: MaskFormat
) -> StyleFindings:
    """Colours of renders against those of references, which are of other pairs than the masks."""
    references, targets = _spread(pairs[::2], MAX_REFERENCES), _spread(pairs[1::2], MAX_MASKS)
    size = backend.card.architecture.size
    mu, _ = encode_all(backend, np.stack([read_values(photo.path, size) for photo, _ in references]))
    pictures = [resize_photo(read_photo(photo.path), size) for photo, _ in references]
    codes = [_codes(backend, mask.path, mask_format) for _, mask in references]
    largest = int(np.bincount(np.concatenate([c.ravel() for c in codes])).argmax())
    whole, part, again = [], [], []
    for _, mask in targets:
        own = _codes(backend, mask.path, mask_format)
        outputs = backend.run(own[None], None, mu)
        images = [image_bytes(output) for output in outputs]
        whole.append([mean_lab(image) for image in images])
        part.append([mean_lab(image, own == largest) for image in images])
        again.append(encode_all(backend, np.clip(outputs, -1, 1))[0])
    channel = backend.card.labels.code_to_channel[largest]
    name = backend.card.labels.classes[channel].name
    photo_part = np.stack([mean_lab(p, c == largest) for p, c in zip(pictures, codes, strict=True)])
    consistency = {f"color_of_{name}": match(np.array(part), photo_part)} if np.isfinite(part).any() else {}
    consistency |= {
        "color": match(np.array(whole), np.stack([mean_lab(p) for p in pictures])),
        "encoded_back": match(np.array(again), mu),
    }
    return StyleFindings(
        usage, consistency, tuple(photo.key for photo, _ in references), tuple(mask.key for _, mask in targets)
    )


def style_in_short(found: dict[str, Any]) -> dict[str, Any]:
    """The plain values of findings for people: the largest dimensions only."""
    usage = dict(found["usage"])
    usage["kl"] = usage["kl"][:SHOWN_KL]
    usage["active"] = f"{usage['active']} of {usage['z_dim']} dimensions"
    return {"usage": usage, **{k: v for k, v in found.items() if k != "usage"}}


def match_words(found: Match) -> str:
    """Right against shuffled references."""
    return (
        f"{found.right:.2f} from their own reference, {found.shuffled:.2f} from the others; "
        f"the nearest is their own for {found.top1:.0%} (chance {1 / found.num_references:.0%})"
    )


def _example_masks(labels: LabelSpace) -> list[Path]:
    if labels.name not in shipped_sets():
        raise UserError(f"the example masks do not fit label space {labels.name!r}", hint="give --masks DIR too")
    return list(shipped_examples(labels.name).values())


def _codes(backend: Backend, path: Path, mask_format: MaskFormat) -> NDArray[np.uint8]:
    # a copy: torch warns about arrays that cannot be written to, and Pillow gives such
    return np.array(resize_codes(read_mask(path, backend.card.labels, mask_format), backend.card.architecture.size))


def _spread(items: Sequence[T], most: int) -> Sequence[T]:
    """At most ``most`` of the items, evenly spread."""
    return items if len(items) <= most else [items[i * len(items) // most] for i in range(most)]
