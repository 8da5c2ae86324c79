"""The HDF5 file of scores: pixel counts as tables, results and protocol as attributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ...core.json_text import json_text
from ...core.labelspace import LabelSpace
from ...store import h5
from .protocol import Protocol
from .sample_diversity import Diversity
from .segmentation import PixelCounts
from .sets import stem


def write_scores(
    path: Path,
    results: Mapping[str, Any],
    protocol: Protocol,
    hashes: Mapping[str, str],
    counted: PixelCounts | None,
    labels: LabelSpace | None,
    diversities: Mapping[str, Diversity | None],
) -> None:
    """Write the scores; ``hashes``: SHA-256 of every picture that was read, by path.

    ``confusion`` [K,K]: rows are the masks' classes, columns the predicted ones; ``outside`` [K]: pixels whose
    prediction is none of them. ``images/``: one row per render. A group for each of ``diversities``: one row per mask.
    """
    words = asdict(protocol)
    with h5.create(path, "scores", words, h5.source_digest(hashes.items())) as f:
        f.attrs["results_json"] = json_text(results, sort_keys=True)
        f.attrs["protocol_json"] = json_text(words, sort_keys=True)
        h5.names(f, hashes)
        h5.names(f, hashes.values(), "sha256")
        if counted is not None and labels is not None:
            f.create_dataset("confusion", data=counted.matrix[:, :-1])
            f.create_dataset("outside", data=counted.matrix[:, -1])
            h5.names(f, (c.name for c in labels.classes), "class")
            images = f.create_group("images")
            h5.names(images, (stem(p) for p in counted.pictures))
            h5.names(images, (p.key for p in counted.pictures), "mask_name")
            h5.table(images, "intersection", counted.intersection)
            h5.table(images, "union", counted.union)
            h5.table(images, "given", counted.given)
        for name, diversity in diversities.items():
            if diversity is None:
                continue
            group = f.create_group(name)
            h5.names(group, diversity.masks, "mask_name")
            group.create_dataset("value", data=np.array(diversity.values))
