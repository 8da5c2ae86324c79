"""A segmenter as a feature network, for distances that carry its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UserError
from .interface import Segmenter


@dataclass(frozen=True)
class SegmenterFeatures:
    """A segmenter's features as a :class:`spadecli.metrics.extractors.FeatureNetwork`."""

    segmenter: Segmenter
    dimensions: int
    kind: str = "segmenter"

    @classmethod
    def of(cls, segmenter: Segmenter) -> SegmenterFeatures:
        """Wrap a segmenter. Raises UserError if it has no features (a folder of predictions, some ONNX files)."""
        probe = np.random.RandomState(0).randint(0, 256, (1, 64, 64, 3)).astype(np.uint8)
        features = np.asarray(segmenter.features(probe))
        if features.ndim != 2 or len(features) != 1 or not features.shape[1]:
            raise UserError(f"{segmenter.name}: returns features {list(features.shape)}, expected [1,D]")
        return cls(segmenter, features.shape[1])

    @property
    def name(self) -> str:
        """The segmenter's name."""
        return self.segmenter.name

    @property
    def sha256(self) -> str:
        """SHA-256 of the segmenter's file."""
        return self.segmenter.sha256

    @property
    def frechet_name(self) -> str:
        """The name of a Fréchet distance in these features, which is not FID."""
        return f"Fréchet distance ({self.name} features)"

    @property
    def kernel_name(self) -> str:
        """The name of a kernel distance in these features, which is not KID."""
        return f"kernel distance ({self.name} features)"

    def __call__(self, pictures: NDArray[Any]) -> NDArray[np.float32]:
        """Compute features float32 [N,D] of pictures [N,H,W,3] in 0..255."""
        whole = pictures if pictures.dtype == np.uint8 else np.clip(np.rint(pictures), 0, 255).astype(np.uint8)
        features = np.asarray(self.segmenter.features(whole), np.float32)
        if features.shape != (len(pictures), self.dimensions):
            expected = [len(pictures), self.dimensions]
            raise UserError(f"{self.name}: returned features {list(features.shape)}, expected {expected}")
        return features
