"""Training samples of a segmenter: random crops of packed pairs with colour jitter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from ..core.recipe import Recipe
from ..data.dataset import Batch, Key
from ..data.masks import Size, resize_codes, resize_photo
from ..data.packed import Packed

IGNORED = 255  # target of pixels that count neither in the loss nor in the scores

MEAN_SHARE = 0.9  # mean share of the picture's height and width in a crop
SCALE = 0.25  # largest change of that share, as a natural logarithm
ASPECT = 0.15  # largest change of the aspect ratio's square root, as a natural logarithm


class SegmentationSet(Dataset[Batch]):
    """Random crops of packed pairs at ``size`` (height, width): a pure function of (seed, epoch, index).

    An item has photo float32 [3,H,W] in [0,1] and target uint8 [H,W]: class channels, IGNORED where unknown.
    jitter: strength of the colour jitter; 0 for none.
    """

    def __init__(self, path: Path, recipe: Recipe, size: Size, seed: int, jitter: float) -> None:
        self.packed = Packed(path)
        self.size, self.seed, self.jitter = size, seed, jitter
        self.flip = recipe.data.flip
        self._targets = target_table(recipe)

    def __getitem__(self, key: Key) -> Batch:
        """Return the sample of (epoch, index)."""
        random = np.random.default_rng((self.seed, *key))
        codes, _, photo = self.packed.get(key[1])
        box = self._window(random)
        resized = Image.fromarray(photo).resize(self.size[::-1], Image.Resampling.BILINEAR, box=box)
        window: NDArray[np.float32] = np.asarray(resized, np.float32) / np.float32(255)
        target = self._targets[
            np.asarray(Image.fromarray(codes).resize(self.size[::-1], Image.Resampling.NEAREST, box))
        ]
        if self.flip and random.random() < 0.5:
            window, target = window[:, ::-1], target[:, ::-1]
        window = jitter_colors(window, self.jitter, random)
        photo_tensor = torch.from_numpy(np.ascontiguousarray(window.transpose(2, 0, 1)))
        return {"photo": photo_tensor, "target": torch.from_numpy(np.ascontiguousarray(target))}

    def _window(self, random: np.random.Generator) -> tuple[float, float, float, float]:
        """Draw a random box (left, top, right, bottom) inside the packed picture."""
        height, width = self.packed.size
        share = MEAN_SHARE * np.exp(random.uniform(-SCALE, SCALE))
        aspect = np.exp(random.uniform(-ASPECT, ASPECT))
        h, w = min(height, height * share * aspect), min(width, width * share / aspect)
        top, left = random.uniform(0, height - h), random.uniform(0, width - w)
        return left, top, left + w, top + h


def jitter_colors(photo: NDArray[np.float32], amount: float, random: np.random.Generator) -> NDArray[np.float32]:
    """Change contrast, brightness, tint and saturation of a photo float32 [H,W,3] in [0,1] at random."""
    contrast, brightness = np.exp(random.uniform(-2 * amount, 2 * amount)), random.uniform(-0.7 * amount, 0.7 * amount)
    tint = np.exp(random.uniform(-0.7 * amount, 0.7 * amount, 3)).astype(np.float32)
    saturation = random.uniform(1 - 2 * amount, 1 + 2 * amount)
    moved = ((photo - 0.5) * np.float32(contrast) + np.float32(0.5 + brightness)) * tint
    grey = moved.mean(-1, keepdims=True)
    return np.asarray((grey + (moved - grey) * np.float32(saturation)).clip(0, 1), np.float32)


def target_table(recipe: Recipe) -> NDArray[np.uint8]:
    """Return the target of each label code, uint8 [256]; IGNORED for the unknown class and codes without a class."""
    channels = recipe.labels.code_to_channel
    ignored = channels < 0
    if recipe.labels.unknown_channel is not None:
        ignored |= channels == recipe.labels.unknown_channel
    return np.where(ignored, IGNORED, channels).astype(np.uint8)


def whole_pair(packed: Packed, index: int, size: Size) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read a packed pair at ``size``: photo uint8 [H,W,3] (bicubic) and class channels uint8 [H,W] (nearest)."""
    codes, _, photo = packed.get(index)
    if packed.size != size:
        codes, photo = resize_codes(codes, size), resize_photo(photo, size)
    return photo, packed.labels.code_to_channel[codes].astype(np.uint8)
