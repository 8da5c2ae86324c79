"""Label maps that another program has predicted, found by the names of the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UserError
from ..core.labelspace import LabelSpace
from ..data.masks import MASK_SUFFIXES, Size, read_mask, resize_codes
from ..store.h5 import file_sha256, source_digest
from .card import SegmenterCard


class FolderPredictions:
    """A folder of predicted label maps, one for each picture, under the picture's name (see :class:`LabelSource`).

    Raises UserError if the folder holds no label maps, or two of one name.
    """

    card: SegmenterCard | None = None

    def __init__(self, folder: Path, labels: LabelSpace) -> None:
        self.folder, self.labels = folder, labels
        self.name = folder.resolve().name
        self._files: dict[str, Path] = {}
        twice = []
        for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in MASK_SUFFIXES and p.is_file()):
            key = path.relative_to(folder).with_suffix("").as_posix()
            if key in self._files:
                twice.append(f"{self._files[key]} and {path}")
            self._files[key] = path
        if not self._files:
            raise UserError(
                f"{folder}: no label maps ({', '.join(MASK_SUFFIXES)}) in it, and no config.json of a model"
            )
        if twice:
            raise UserError(f"{folder}: label maps of the same name", problems=twice)
        self.sha256 = source_digest((key, file_sha256(path)) for key, path in self._files.items())

    def require(self, keys: Sequence[str]) -> None:
        """Raise UserError if any of the pictures, given by name, has no label map; it lists them."""
        missing = [key for key in keys if key not in self._files]
        if missing:
            raise UserError(
                f"{self.folder}: no predicted label map for {len(missing)} of {len(keys)} pictures",
                problems=[*missing[:8], *([f"and {len(missing) - 8} more"] if len(missing) > 8 else [])],
                hint=f"name label maps like the pictures: {self.folder / missing[0]}.png for {missing[0]}",
            )

    def predict_named(self, keys: Sequence[str], size: Size) -> NDArray[np.uint8]:
        """Return class channels uint8 [N,H,W] of pictures by name (relative path without suffix), resized by nearest.

        Raises UserError, which lists every picture without a label map or every label map that cannot be read.
        """
        self.require(keys)
        maps, problems = [], []
        for key in keys:
            try:
                codes = read_mask(self._files[key], self.labels)
                maps.append(self.labels.code_to_channel[resize_codes(codes, size)].astype(np.uint8))
            except UserError as e:
                problems.append(e.line)
        if problems:
            raise UserError(f"{self.folder}: predicted label maps that cannot be used", problems=problems)
        return np.stack(maps) if maps else np.zeros((0, *size), np.uint8)
