"""Distances in a segmenter's own features."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from segmenters import ByColour

from spadecli.core.errors import UserError
from spadecli.core.report import Silent
from spadecli.metrics.features import FeatureReader
from spadecli.segmenter.feature_network import SegmenterFeatures


def test_segmenters_measure_under_their_own_name(tmp_path: Path) -> None:
    random, photos = np.random.default_rng(0), [tmp_path / f"{i}.png" for i in range(3)]
    for photo in photos:
        Image.fromarray(random.integers(0, 256, (24, 32, 3), np.uint8)).save(photo)
    own = SegmenterFeatures.of(ByColour())
    assert (own.dimensions, own.kind) == (6, "segmenter")
    assert "FID" not in own.frechet_name
    assert "by-colour" in own.frechet_name
    assert FeatureReader(own, (24, 32), tmp_path / "cache").read(photos, Silent()).shape == (3, 6)


def test_answers_that_are_no_features_are_refused() -> None:
    class Flat(ByColour):
        def features(self, images):
            return np.zeros(3, np.float32)

    with pytest.raises(UserError, match=r"features \[3\], expected \[1,D\]"):
        SegmenterFeatures.of(Flat())
