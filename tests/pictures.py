"""Folders of made-up photographs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def photographs(folder: Path, names: Sequence[str], seed: int = 0, size: tuple[int, int] = (24, 32)) -> Path:
    """PNG pictures of coloured noise, each with its own light."""
    random = np.random.RandomState(seed)
    for name in names:
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        light = random.uniform(40, 200, 3)
        pixels = (light + random.uniform(-40, 40, (*size, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    return folder
