"""Segmenters for tests: they read classes from colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spadecli.core.labelspace import LabelSpace

SPACE = LabelSpace.model_validate(
    {
        "name": "three",
        "classes": [
            {"name": "void", "value": 255, "color": (0, 0, 0)},
            {"name": "wall", "value": 1, "color": (200, 30, 30)},
            {"name": "window", "value": 2, "color": (30, 30, 200)},
            {"name": "door", "value": 5, "color": (30, 200, 30)},
        ],
        "unknown": "void",
    }
)


class ByColour:
    """Predictor the class whose colour is nearest; its features are the shares of the classes and mean colours."""

    name = "by-colour"
    sha256 = "5e" * 32
    card = None

    def __init__(self, labels: LabelSpace = SPACE) -> None:
        self.labels = labels
        self.calls: list[int] = []

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        self.calls.append(len(images))
        colors = np.array([c.color for c in self.labels.classes], np.int64)
        distance = np.square(images[..., None, :].astype(np.int64) - colors).sum(-1)
        return distance.argmin(-1).astype(np.uint8)

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        flat = images.reshape(len(images), -1, 3).astype(np.float32)
        return np.concatenate([flat.mean(1), flat.std(1)], axis=1)


def masks_and_renders(
    root: Path, names: tuple[str, ...], wrong: float = 0.2, size: tuple[int, int] = (24, 32), seed: int = 0
) -> None:
    """NAME.png in root/masks by value, in root/renders by colour with wrong pixels, in root/photos with fewer."""
    random = np.random.RandomState(seed)
    values = np.array([c.values[0] for c in SPACE.classes], np.uint8)
    colors = np.array([c.color for c in SPACE.classes], np.uint8)
    for folder in ("masks", "renders", "photos"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        channels = random.randint(0, 3, size)  # no door anywhere
        painted = np.where(random.rand(*size) < wrong, random.randint(1, 4, size), channels)
        Image.fromarray(values[channels]).save(root / "masks" / f"{name}.png")
        Image.fromarray(colors[painted]).save(root / "renders" / f"{name}.png")
        Image.fromarray(colors[np.where(random.rand(*size) < wrong / 4, 1, channels)]).save(
            root / "photos" / f"{name}.png"
        )
