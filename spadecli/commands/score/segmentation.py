"""IoU and accuracy: what a segmenter sees in the renders, against the masks that they were made from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from ...core.errors import UserError
from ...core.labelspace import LabelSpace
from ...core.report import Report
from ...data.folder import Item
from ...data.masks import read_photo, resize_codes
from ...metrics.confusion import (
    ABSENT_WORDS,
    I8,
    Absent,
    Agreement,
    agreement,
    confusion_matrix,
    image_mean_iou,
    intersection_and_union,
)
from ...segmenter.interface import LabelSource, match_channels
from ...segmenter.predictions import FolderPredictions
from ...segmenter.registry import AnySegmenter
from .presets import LABEL_RESIZE_WORDS, LabelResize
from .protocol import SegmentationProtocol
from .sets import stem
from .source_masks import Masks


@dataclass(frozen=True)
class ClassScore:
    """One class. pixels: in the masks; iou, accuracy: None where undefined; counted: whether the mean has it.

    photo_iou: the same segmenter's on the real photographs of the same masks, if they were measured.
    """

    name: str
    color: tuple[int, int, int]
    pixels: int
    iou: float | None
    accuracy: float | None
    counted: bool
    photo_iou: float | None = None


@dataclass(frozen=True)
class PhotoScores:
    """The ceiling: the same segmenter on real photographs of the same masks."""

    count: int
    mean_iou: float
    accuracy: float
    frequency_weighted_iou: float


@dataclass(frozen=True)
class Segmentation:
    """Scores of the renders as a whole, fractions in 0..1.

    ratio: mean IoU over the photographs' one; None without photographs, and where the segmenter is not shown to be
    far better than its baselines, since then the ceiling is no ceiling.
    """

    segmenter: str
    images: int
    mean_iou: float
    accuracy: float
    frequency_weighted_iou: float
    classes: tuple[ClassScore, ...]
    photos: PhotoScores | None
    ratio: float | None = None


@dataclass(frozen=True)
class PixelCounts:
    """Pixels of a set of pictures: confusion [K,K+1] of all; intersection, union and given pixels [N,K] of each."""

    pictures: tuple[Item, ...]
    matrix: I8
    intersection: I8
    union: I8
    given: I8

    @property
    def mean_iou(self) -> NDArray[np.float64]:
        """Mean IoU [N] of each picture over the classes in its mask."""
        return image_mean_iou(self.intersection, self.union, self.given > 0)


@dataclass(frozen=True)
class SegmentationPlan:
    """Checked inputs of :func:`measure_segmentation`.

    channel_of: uint8 [256], channel of the segmenter -> channel of the masks (K: none).
    """

    segmenter: AnySegmenter
    labels: LabelSpace
    channel_of: NDArray[np.uint8]
    masks: Masks
    renders: list[Item]
    photos: list[Item]
    label_resize: LabelResize
    absent: Absent
    protocol: SegmentationProtocol


def plan_segmentation(
    segmenter: AnySegmenter,
    labels: LabelSpace,
    masks: Masks,
    renders: list[Item],
    photos: list[Item],
    label_resize: LabelResize,
    absent: Absent,
) -> SegmentationPlan:
    """Pair renders with masks and match the classes.

    Raises UserError where renders have no mask, or the segmenter knows other classes than the masks have.
    """
    masks.require(p.key for p in renders)
    channel_of = match_channels(segmenter, labels)
    keys = {p.key for p in renders}
    ceiling = [p for p in photos if p.key in keys and p.key in masks.files]
    if isinstance(segmenter, FolderPredictions):  # predictions of the renders alone
        ceiling = []
        segmenter.require([stem(item) for item in renders])
    unknown = labels.unknown
    protocol = SegmentationProtocol(
        segmenter=segmenter.name,
        segmenter_sha256=segmenter.sha256,
        trust=_trust(segmenter)[0],
        masks=masks.source,
        mask_count=len(keys),
        label_space=labels.name,
        label_resize=LABEL_RESIZE_WORDS[label_resize],
        ignore=f"pixels of class {unknown!r} in the mask are left out" if unknown else "no pixel is left out",
        absent=ABSENT_WORDS[absent],
        photos=len(ceiling),
    )
    return SegmentationPlan(segmenter, labels, channel_of, masks, renders, ceiling, label_resize, absent, protocol)


def _trust(segmenter: LabelSource) -> tuple[str, bool]:
    """How the segmenter does on real photographs beside its baselines, and whether it is far better than both."""
    card = segmenter.card
    if card is None or card.miou_real is None:
        return "not known: no measured baselines come with it, so no ratio to the ceiling is quoted", False
    majority, position = card.miou_majority, card.miou_color_position
    beside = ", ".join(
        f"{name} {value:.1%}"
        for name, value in (("majority class", majority), ("colour and position", position))
        if value is not None
    )
    trusted = bool(card.beats_baselines)
    verdict = (
        "beats both by 0.15 or more" if trusted else "does not beat both by 0.15: no ratio to the ceiling is quoted"
    )
    return f"mean IoU {card.miou_real:.1%} on photographs it never saw ({beside or 'no baselines'}); {verdict}", trusted


def measure_segmentation(plan: SegmentationPlan, batch: int, report: Report) -> tuple[Segmentation, PixelCounts]:
    """Scores of the renders, with the photographs' beside them, and the renders' pixel counts.

    Raises UserError that lists every picture or mask that cannot be measured.
    """
    unknown = plan.labels.unknown_channel
    counted = count_pixels(plan, plan.renders, batch, report)
    result = agreement(counted.matrix, unknown, plan.absent)
    photos, photo_result = None, None
    if plan.photos:
        ceiling = count_pixels(plan, plan.photos, batch, report)
        photo_result = agreement(ceiling.matrix, unknown, plan.absent)
        photos = PhotoScores(
            len(plan.photos), photo_result.mean_iou, photo_result.accuracy, photo_result.frequency_weighted_iou
        )
    if math.isnan(result.accuracy):
        raise UserError(f"{plan.masks.source}: every pixel of the masks is of the class that is left out")
    segmentation = Segmentation(
        segmenter=plan.segmenter.name,
        images=len(plan.renders),
        mean_iou=result.mean_iou,
        accuracy=result.accuracy,
        frequency_weighted_iou=result.frequency_weighted_iou,
        classes=_class_scores(plan.labels, counted.matrix, result, photo_result),
        photos=photos,
        ratio=result.mean_iou / photos.mean_iou if photos and photos.mean_iou and _trust(plan.segmenter)[1] else None,
    )
    return segmentation, counted


def _class_scores(
    labels: LabelSpace, matrix: I8, result: Agreement, photos: Agreement | None
) -> tuple[ClassScore, ...]:
    given = matrix.sum(axis=1)
    return tuple(
        ClassScore(
            name=c.name,
            color=c.color,
            pixels=int(given[i]),
            iou=_number(result.class_iou[i]),
            accuracy=_number(result.class_accuracy[i]),
            counted=bool(result.counted[i]),
            photo_iou=_number(photos.class_iou[i]) if photos else None,
        )
        for i, c in enumerate(labels.classes)
        if i != labels.unknown_channel
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def count_pixels(plan: SegmentationPlan, pictures: Sequence[Item], batch: int, report: Report) -> PixelCounts:
    """Predict every picture and count its pixels against its mask."""
    num, unknown = plan.labels.num_classes, plan.labels.unknown_channel
    matrix = np.zeros((num, num + 1), np.int64)
    rows: list[tuple[I8, I8, I8]] = []
    with report.progress("segmenting", len(pictures)) as task:
        for group, truths, predictions in predict(plan, pictures, batch):
            for truth, predicted in zip(truths, predictions, strict=True):
                own = confusion_matrix(truth, predicted, num, unknown)
                matrix += own
                rows.append((*intersection_and_union(own), own.sum(axis=1)))
            task.advance(len(group))
    intersection, union, given = (np.stack(column) for column in zip(*rows, strict=True))
    return PixelCounts(tuple(pictures), matrix, intersection, union, given)


Predicted = tuple[list[Item], list[NDArray[np.uint8]], list[NDArray[np.uint8]]]


def predict(plan: SegmentationPlan, pictures: Sequence[Item], batch: int) -> Iterator[Predicted]:
    """Pictures in groups, with their masks and predictions: channels uint8 [H,W], both at the protocol's size."""
    problems: list[str] = []
    groups = [pictures[i : i + batch] for i in range(0, len(pictures), batch)]
    with ThreadPoolExecutor() as pool:
        for group in groups:
            read: list[tuple[Item, NDArray[np.uint8], NDArray[np.uint8]]] = []
            for item, future in [(p, pool.submit(_read, plan, p)) for p in group]:
                try:
                    read.append((item, *future.result()))
                except UserError as e:
                    problems.append(e.line)
            if problems:  # the rest is read only to report every problem
                continue
            # of one size within a call of the network
            for _, same in groupby(read, key=lambda row: row[1].shape):
                items, photos, truths = (list(column) for column in zip(*same, strict=True))
                yield items, *_at_one_size(plan, truths, _predict(plan, items, np.stack(photos)))
    if problems:
        raise UserError(f"{len(problems)} of {len(pictures)} pictures cannot be measured", problems=problems)


def _read(plan: SegmentationPlan, item: Item) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    return read_photo(item.path), plan.masks.channels(item.key, plan.labels)


def _predict(plan: SegmentationPlan, items: list[Item], photos: NDArray[np.uint8]) -> NDArray[np.uint8]:
    size = photos.shape[1:3]
    segmenter = plan.segmenter
    if isinstance(segmenter, FolderPredictions):
        predicted = np.asarray(segmenter.predict_named([stem(item) for item in items], size))
    else:
        predicted = np.asarray(segmenter.predict(photos))
    if predicted.shape != (len(items), *size):
        expected = [len(items), *size]
        raise UserError(f"{plan.segmenter.name}: predicted {list(predicted.shape)}, expected {expected}")
    channels: NDArray[np.uint8] = plan.channel_of[predicted]
    return channels


def _at_one_size(
    plan: SegmentationPlan, truths: list[NDArray[np.uint8]], predicted: NDArray[np.uint8]
) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
    if plan.label_resize == "to-image":
        return [_resized(t, predicted.shape[1:3]) for t in truths], list(predicted)
    return truths, [_resized(p, t.shape) for p, t in zip(predicted, truths, strict=True)]


def _resized(channels: NDArray[np.uint8], size: tuple[int, ...]) -> NDArray[np.uint8]:
    return channels if channels.shape == size else resize_codes(channels, (size[0], size[1]))
