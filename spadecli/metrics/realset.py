"""A set of pictures for distances: their features or, without these, their mean and covariance.

Statistics of a real set can be saved and used instead of the photographs. If there are no more pictures than
dimensions, the features are saved as well: they are smaller than the covariance, and kernel distances, precision and
recall need them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UserError
from ..store import h5
from .extractors import FeatureNetwork
from .frechet import Statistics, check_features, frechet_distance, frechet_from_statistics


@dataclass
class PictureSet:
    """A set of pictures. features: float32 [N,D], or None if only statistics are known. names: keys, if known."""

    features: NDArray[np.float32] | None
    known: Statistics | None = None
    names: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def statistics(self) -> Statistics:
        """Count, mean and scatter in float64."""
        if self.known is not None:
            return self.known
        assert self.features is not None
        return Statistics.of(self.features)

    @property
    def count(self) -> int:
        """Number of pictures."""
        return self.known.n if self.known is not None else len(self.features if self.features is not None else ())

    def frechet(self, other: PictureSet) -> float:
        """Return the Fréchet distance to another set, from features if both have them, else from statistics."""
        if self.features is not None and other.features is not None:
            return frechet_distance(self.features, other.features)
        for picture_set in (self, other):
            if picture_set.features is not None:
                check_features(picture_set.features, "features")
        return frechet_from_statistics(self.statistics, other.statistics)


def save_real(path: Path, real: PictureSet, config: dict[str, Any], hashes: dict[str, str]) -> None:
    """Write the statistics of a real set. hashes: SHA-256 of each picture by key. config: the protocol."""
    statistics = real.statistics
    with h5.create(path, "features", config, h5.source_digest(hashes.items())) as f:
        stats = f.create_group("stats")
        stats.create_dataset("mu", data=statistics.mean)
        stats.create_dataset("sigma", data=statistics.covariance, compression="gzip", shuffle=True)
        stats.create_dataset("n", data=statistics.n)
        if real.features is not None and real.count <= real.features.shape[1]:
            h5.table(f, "feature", real.features)
        h5.names(f, hashes)
        h5.names(f, hashes.values(), "sha256")


def load_real(path: Path, network: FeatureNetwork) -> PictureSet:
    """Read what :func:`save_real` wrote.

    Raises UserError if it is not such a file, or was made with another network.
    """
    with h5.open_read(path, "features") as f:
        config = h5.config_of(f)
        if "stats" not in f:
            raise UserError(
                f"{path}: features without statistics of a set", hint="create it with spade score --save-real"
            )
        made_with = str(config.get("extractor_sha256", ""))
        if made_with != network.sha256:
            raise UserError(
                f"{path}: statistics of {config.get('extractor', 'another network')} (sha256 {made_with[:12]}...), "
                f"but the distances use {network.name} (sha256 {network.sha256[:12]}...)",
                hint="recreate them from the photographs with spade score --real PHOTOS --save-real FILE",
            )
        n, mean = int(f["stats/n"][()]), f["stats/mu"][:]
        known = Statistics(n, mean, f["stats/sigma"][:] * (n - 1))
        features = f["feature"][:] if "feature" in f else None
        names = tuple(f["name"].asstr()[:])
    if not (np.isfinite(mean).all() and np.isfinite(known.scatter).all()) or mean.shape != (network.dimensions,):
        raise UserError(f"{path}: damaged: its statistics are not finite, or not of {network.dimensions} dimensions")
    return PictureSet(features, known, names, config)
