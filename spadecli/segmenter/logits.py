"""Resizing pictures to a network's input size, and its logits back to label maps of the pictures' size."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import UserError


def check_images(images: NDArray[np.uint8]) -> None:
    """Raise UserError if pictures are not uint8 [N,H,W,3]."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise UserError(f"pictures are {images.dtype} {list(images.shape)}; expected uint8 [N,H,W,3]")


def to_size(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize pictures float [N,C,h,w] to ``size`` (height, width): bilinear, antialiased when shrinking."""
    if tuple(pictures.shape[-2:]) == tuple(size):
        return pictures
    return F.interpolate(pictures, size=size, mode="bilinear", align_corners=False, antialias=True)


def best_class(logits: Tensor, size: tuple[int, int], unknown: int | None = None) -> NDArray[np.uint8]:
    """Resize logits [N,K,h,w] to ``size``, bilinearly, and return the class with the highest score, uint8 [N,H,W].

    unknown: a channel that is never predicted, because it was not trained.
    """
    scores = logits.float()
    if unknown is not None:
        scores = scores.clone()
        scores[:, unknown] = torch.finfo(torch.float32).min
    if tuple(scores.shape[-2:]) != tuple(size):
        scores = F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
    best: NDArray[np.uint8] = scores.argmax(1).to(torch.uint8).cpu().numpy()
    return best
