"""Validation of a run's averaged weights on pairs it does not train on: measures, a sample sheet, a log row."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.cache import cache_dir
from ..core.errors import UserError
from ..core.labelspace import LabelSpace
from ..core.recipe import Recipe
from ..core.report import count
from ..core.sizes import Size
from ..data.dataset import Pair, TrainingSet
from ..data.pixels import image_bytes
from ..data.split import split_pairs
from ..metrics.confusion import agreement, confusion_matrix
from ..metrics.extractors import Extractor, open_extractor
from ..metrics.frechet import frechet_distance
from ..model.generator import Generator
from ..model.semantic import SemanticMap
from ..segmenter.interface import Segmenter, match_channels
from ..segmenter.predictions import FolderPredictions
from ..segmenter.registry import open_segmenter
from ..store.feature_cache import FeatureStore
from ..store.run_folder import RunFolder, append_row, read_rows
from .ema import States, averaged_networks
from .sheets import SampleSheet, fixed_z


@dataclass(frozen=True)
class Validation:
    """One validation: a row of validation.jsonl.

    size: (height, width) of the images. measure: the name of ``distance``; both are None without an extractor.
    mean_iou: None without a segmenter. is_best: whether the distance is lower than all earlier ones at this size;
    False without an extractor.
    """

    step: int
    pairs: int
    size: Size
    measure: str | None
    distance: float | None
    mean_iou: float | None
    is_best: bool
    seconds: float

    @property
    def line(self) -> str:
        """The result on one line."""
        parts = []
        if self.distance is not None:
            parts.append(f"{self.measure} {self.distance:.5g}" + ", the lowest so far" * self.is_best)
        if self.mean_iou is not None:
            parts.append(f"mIoU {self.mean_iou:.1%}")
        found = "; ".join(parts) or "no measure is configured"
        return f"step {self.step}: validation on {count(self.pairs, 'pair')}: {found}"

    @property
    def status(self) -> str:
        """The result for the end of a progress bar."""
        distance = f" val {self.distance:.5g}" if self.distance is not None else ""
        return distance + (f" mIoU {self.mean_iou:.1%}" if self.mean_iou is not None else "")


class MaskAgreement:
    """Agreement between masks and a segmenter's predictions on the images rendered from them."""

    def __init__(self, segmenter: Segmenter, labels: LabelSpace) -> None:
        self._segmenter, self._labels = segmenter, labels
        self._channel_of = match_channels(segmenter, labels)
        self.restart()

    def restart(self) -> None:
        """Discard everything added so far."""
        self._matrix = np.zeros((self._labels.num_classes, self._labels.num_classes + 1), np.int64)

    def add(self, images: NDArray[np.uint8], channels: NDArray[np.uint8]) -> None:
        """Compare images [N,H,W,3] with the class channels [N,H,W] they were rendered from."""
        predicted = self._channel_of[self._segmenter.predict(images)]
        self._matrix += confusion_matrix(channels, predicted, self._labels.num_classes, self._labels.unknown_channel)

    def mean_iou(self) -> float:
        """Mean intersection over union of everything added, 0..1, without the unknown class and absent classes."""
        return agreement(self._matrix, self._labels.unknown_channel).mean_iou


def open_agreement(recipe: Recipe, device: str) -> MaskAgreement | None:
    """Open the measure of ``validation.segmenter``, or return None if none is set.

    Raises UserError if the segmenter cannot be opened or predicts other classes.
    """
    source = recipe.validation.segmenter
    if not source:
        return None
    segmenter = open_segmenter(source, device=device, labels=recipe.labels)
    if isinstance(segmenter, FolderPredictions):
        raise UserError(
            f"{source}: a folder of label maps knows the pictures it was predicted from, not those of a run",
            hint="validation.segmenter takes weights of spade train-segmenter, an .onnx or a transformers model",
        )
    return MaskAgreement(segmenter, recipe.labels)


def check_validation(recipe: Recipe, device: str) -> None:
    """Raise UserError if a recipe's extractor or segmenter cannot be opened; measure and write nothing."""
    if recipe.validation.every:
        _extractor(recipe, device)
        open_agreement(recipe, device)


class Validator:
    """The fixed validation pairs of a run, the features of their photographs, and the validations so far.

    Raises UserError if the extractor cannot be opened or returns non-finite features of the photographs.
    """

    def __init__(self, recipe: Recipe, dataset: TrainingSet, run: RunFolder, device: torch.device) -> None:
        self._run, self._device = run, device
        names = dataset.packed.names
        self.indices = split_pairs(names, recipe).validation
        self.names = [names[i] for i in self.indices]
        self.extractor = _extractor(recipe, str(device))
        self.agreement = open_agreement(recipe, str(device))  # once: the file is large, and it is hashed
        self.use(recipe, dataset)

    def use(self, recipe: Recipe, dataset: TrainingSet) -> None:
        """Validate at the size of ``recipe`` from now on, a stage's, on the photographs of its ``dataset``."""
        self.recipe, self._dataset = recipe, dataset
        self.sheet = SampleSheet(recipe, dataset, self.indices) if recipe.validation.sheet else None
        self._real = self._photo_features(self.extractor) if self.extractor else None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of the validations so far."""
        return read_rows(self._run.validation_path)

    def look(self, step: int, states: States) -> Validation:
        """Measure weights, draw their sheet, and append the row."""
        started = time.monotonic()
        generator, encoder = averaged_networks(self.recipe, states, self._device)
        distance, mean_iou = self._measure(generator)
        if self.sheet is not None:
            self.sheet.draw(generator, encoder, self._run.samples_dir / f"validation_{step:07d}.png")
        size = self.recipe.model.size  # distances at another size are others
        rows = [row for row in self.rows if tuple(row.get("size", size)) == size]
        earlier = [row["distance"] for row in rows if row.get("distance") is not None]
        found = Validation(
            step=step,
            pairs=len(self.indices),
            size=size,
            measure=self.extractor.frechet_name if self.extractor else None,
            distance=distance,
            mean_iou=mean_iou,
            is_best=distance is not None and distance < min(earlier, default=math.inf),
            seconds=round(time.monotonic() - started, 2),
        )
        append_row(self._run.validation_path, found.__dict__)
        return found

    def measure(self, states: States) -> dict[str, float]:
        """Return the configured measures of weights (Fréchet distance, mIoU) by name, without appending a row."""
        distance, mean_iou = self._measure(averaged_networks(self.recipe, states, self._device)[0])
        named = {self.extractor.frechet_name if self.extractor else "": distance, "mIoU": mean_iou}
        return {name: value for name, value in named.items() if value is not None}

    def _measure(self, generator: Generator) -> tuple[float | None, float | None]:
        """Return Fréchet distance and mIoU over one image per pair; each is None if not configured."""
        agreement = self.agreement
        if agreement is not None:
            agreement.restart()
        elif self.extractor is None:
            return None, None
        features = []
        for pairs, images in self._images(generator):
            if self.extractor is not None:
                features.append(self.extractor(images))
            if agreement is not None:
                agreement.add(images, np.stack([pair.channels for pair in pairs]))
        distance = None
        if self._real is not None:
            fake = np.concatenate(features)
            distance = frechet_distance(fake, self._real) if np.isfinite(fake).all() else math.inf
        return distance, agreement.mean_iou() if agreement is not None else None

    @torch.inference_mode()
    def _images(self, generator: Generator) -> Iterator[tuple[list[Pair], NDArray[np.uint8]]]:
        """Yield batches of pairs and an image of each, uint8 [N,H,W,3]: sample 0 of the seed rule."""
        for indices in self._batches():
            pairs = [self._dataset.centre(i) for i in indices]
            channels = torch.from_numpy(np.stack([pair.channels for pair in pairs]).astype(np.int64))
            edges = [pair.edges for pair in pairs if pair.edges is not None]
            semantic = SemanticMap(
                channels.to(self._device),
                torch.from_numpy(np.stack(edges)).to(self._device) if edges else None,
                self.recipe.labels.num_classes,
            )
            z = None
            if self.recipe.model.uses_z:
                keys = [self._dataset.packed.names[i] for i in indices]
                z = torch.cat([fixed_z(self.recipe, key, 1) for key in keys]).to(self._device)
            images = generator(semantic, z).cpu().numpy()
            yield pairs, np.stack([image_bytes(image) for image in images])

    def _photo_features(self, extractor: Extractor) -> NDArray[np.float32]:
        """Return the features [N,D] of the pairs' photographs, from the cache if they have been computed before."""
        h, w = self.recipe.model.size
        kind = "inception" if extractor.inception else "plain"
        folder = cache_dir() / "validation" / f"{extractor.sha256[:16]}-{kind}-{h}x{w}"
        store = FeatureStore(folder, {"extractor": extractor.name, "extractor_sha256": extractor.sha256})
        photos = {i: self._dataset.centre(i).photo for i in self.indices}
        hashes = {i: hashlib.sha256(photo.tobytes()).hexdigest() for i, photo in photos.items()}
        store.load(list(hashes.values()))
        new = [i for i in self.indices if hashes[i] not in store]
        if new:
            found = np.concatenate([extractor(np.stack([photos[i] for i in part])) for part in self._batches(new)])
            if bad := [self._dataset.packed.names[i] for i, row in zip(new, found, strict=True) if not _finite(row)]:
                raise UserError(f"{extractor.path}: returns features that are not finite", problems=bad)
            store.add([self._dataset.packed.names[i] for i in new], [hashes[i] for i in new], found)
        return store.rows([hashes[i] for i in self.indices])

    def _batches(self, indices: Sequence[int] | None = None) -> Iterator[Sequence[int]]:
        indices, size = self.indices if indices is None else indices, self.recipe.train.batch
        return (indices[i : i + size] for i in range(0, len(indices), size))


def _extractor(recipe: Recipe, device: str) -> Extractor | None:
    file = recipe.validation.extractor or recipe.validation.inception
    return open_extractor(Path(file), bool(recipe.validation.inception), device) if file else None


def _finite(row: NDArray[np.float32]) -> bool:
    return bool(np.isfinite(row).all())
