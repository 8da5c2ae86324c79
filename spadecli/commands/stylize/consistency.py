"""Whether images have the style of their reference: encoded back, and compared with it and with the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...backends.base import Backend
from ...data.masks import read_photo, resize_photo
from ...metrics.color import mean_lab
from ...metrics.style_usage import Match, encode_all, match
from ..render.latents import Style
from ..styles.encode import read_values
from ..styles.usage import match_words

MAX_IMAGES = 64
WORKING_SIZE = (64, 64)  # for mean colours


@dataclass(frozen=True)
class StyleConsistency:
    """code: distance of the mu of images to that of their style; color: of mean L*a*b* colours, images to photos.

    color is None where fewer than two of the styles are photos that can be read.
    """

    code: Match
    color: Match | None

    def as_json(self) -> dict[str, Any]:
        """Plain values, for programs."""
        return {"code": self.code.as_json(), "color": self.color.as_json() if self.color else None}

    def lines(self) -> list[str]:
        """A summary for people."""
        lines = [f"encoded back: {match_words(self.code)}"]
        if self.color:
            lines.append(f"mean colour: {match_words(self.color)} (CIE L*a*b*)")
        return lines


def measure_consistency(
    backend: Backend, out: Path, styles: Sequence[Style], photos: Sequence[Path | None], files: Sequence[Sequence[str]]
) -> StyleConsistency | None:
    """Compare images with styles; files: of each mask, one image in each style. None with fewer than two styles.

    Looks at MAX_IMAGES images at most: every mask's if there are few, else of masks spread evenly.
    photos: that of each style, or None.
    """
    if len(styles) < 2 or not backend.card.architecture.has_encoder:
        return None
    most = max(1, MAX_IMAGES // len(styles))
    if len(files) > most:
        files = [files[i * len(files) // most] for i in range(most)]
    size = backend.card.architecture.size
    paths = [out / file for row in files for file in row]
    mu, _ = encode_all(backend, np.stack([read_values(path, size) for path in paths]))
    wanted = np.stack([style.z(None) if style.noise == 0 else style.code.mu for style in styles])
    code = match(mu.reshape(len(files), len(styles), -1), wanted)
    known = [i for i, photo in enumerate(photos) if photo is not None]
    if len(known) < 2:
        return StyleConsistency(code, None)
    outputs = np.stack([[_color(out / row[i]) for i in known] for row in files])
    references = np.stack([_color(photo) for photo in photos if photo is not None])
    return StyleConsistency(code, match(outputs, references))


def _color(path: Path) -> Any:
    return mean_lab(resize_photo(read_photo(path), WORKING_SIZE))
