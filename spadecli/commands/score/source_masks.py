"""The masks that renders were made from: found by a folder, or through the renders' manifest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.errors import UserError
from ...core.labelspace import LabelSpace
from ...data.folder import scan
from ...data.masks import MaskFormat, colorize, read_mask
from ...store.h5 import file_sha256
from ...store.manifest import NAME as MANIFEST_NAME
from ...store.manifest import Journal, read_manifest


@dataclass(frozen=True)
class Masks:
    """Mask files by key. ``source``: their origin in words; ``recorded``: SHA-256 by key, from the manifest."""

    files: Mapping[str, Path]
    source: str
    mask_format: MaskFormat = "auto"
    recorded: Mapping[str, str] = field(default_factory=dict)

    def channels(self, key: str, labels: LabelSpace) -> NDArray[np.uint8]:
        """Class channels uint8 [H,W] of a mask.

        Raises UserError where it cannot be read in this label space, or is not the mask that was rendered.
        """
        path = self.files[key]
        if self.recorded.get(key, "") and file_sha256(path) != self.recorded[key]:
            raise UserError(f"{path}: not the mask that was rendered (its contents have changed)")
        codes = read_mask(path, labels, self.mask_format)
        return labels.code_to_channel[codes].astype(np.uint8)

    def require(self, keys: Iterable[str]) -> None:
        """Raise UserError that lists every key without a mask."""
        wanted = sorted(set(keys))
        missing = [key for key in wanted if key not in self.files]
        if missing:
            raise UserError(
                f"{self.source}: {len(missing)} of {len(wanted)} renders have no mask of their name",
                problems=missing,
                hint="name masks as the renders are named, or score a folder with a manifest",
            )


def find_masks(renders: Path, labels: Path | None) -> Masks | None:
    """The masks in folder ``labels``; without it those that the renders' manifest names, or None.

    Where the manifest's folder is gone, the coloured masks beside the renders serve, at the renders' size.
    """
    if labels is not None:
        return Masks({item.key: item.path for item in scan(labels, "masks")}, str(labels))
    journal = read_manifest(renders / MANIFEST_NAME)
    options = journal.newest_options
    if options is None:
        return None
    folder = Path(str(options.get("masks", "")))
    if options.get("masks") and folder.exists():
        mask_format: MaskFormat = options.get("mask_format", "auto")
        recorded = {key: str(row["sha256"]) for key, row in journal.masks.items()}
        files = {item.key: item.path for item in scan(folder, "masks")}
        if recorded.keys() <= files.keys():
            return Masks(files, f"{folder}, as the manifest says", mask_format, recorded)
    return _colored(renders, journal)


def _colored(renders: Path, journal: Journal) -> Masks | None:
    files = {key: renders / row["colored"] for key, row in journal.masks.items()}
    if not files or not all(path.is_file() for path in files.values()):
        return None
    return Masks(files, f"the coloured masks in {renders}, at the renders' size", "color")


def manifest_labels(renders: Path) -> LabelSpace | None:
    """The classes that the manifest names, with values 0, 1, ...; it does not say which one is unknown."""
    options = read_manifest(renders / MANIFEST_NAME).newest_options
    if options is None or not options.get("classes"):
        return None
    classes = [{**c, "value": i} for i, c in enumerate(options["classes"])]
    return LabelSpace.model_validate({"name": str(options.get("card", "manifest")), "classes": classes})


def channel_colors(channels: NDArray[np.uint8], labels: LabelSpace) -> NDArray[np.uint8]:
    """Class channels uint8 [H,W] as a picture uint8 [H,W,3]; K, for none of the classes, is magenta."""
    codes = np.append(labels.channel_to_code, 0).astype(np.uint8)[np.minimum(channels, labels.num_classes)]
    picture = colorize(codes, labels)
    picture[channels >= labels.num_classes] = (255, 0, 255)
    return picture
