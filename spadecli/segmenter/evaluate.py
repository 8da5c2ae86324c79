"""Evaluation of a trained segmenter against the baselines on unseen pairs, recorded in its card."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..compute.devices import hardware_name
from ..data.packed import Packed
from ..metrics.confusion import Agreement, agreement, confusion_matrix
from .baselines import ColorAndPosition, MajorityClass, Pair
from .card import SegmenterCard
from .logits import best_class
from .network import SegmentationNet
from .plan import SegmenterPlan
from .samples import whole_pair
from .trainer import SegmenterTrainer


class Predictor(Protocol):
    """Anything that predicts label maps."""

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 [N,H,W,3] -> class channels uint8 [N,H,W]."""
        ...


def agreement_on(predictor: Predictor, pairs: Iterable[Pair], num_classes: int, unknown: int | None) -> Agreement:
    """Measure agreement with (photo uint8 [H,W,3], channels uint8 [H,W]) pairs; pixels of ``unknown`` are ignored."""
    total = np.zeros((num_classes, num_classes + 1), np.int64)
    for photo, channels in pairs:
        (predicted,) = predictor.predict(photo[None])
        total += confusion_matrix(channels, predicted, num_classes, unknown)
    return agreement(total, unknown)


class _Network:
    """A network as a predictor."""

    def __init__(self, net: SegmentationNet, device: torch.device, unknown: int | None) -> None:
        self._net, self._device, self._unknown = net, device, unknown

    @torch.inference_mode()
    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        pictures = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(self._device).float() / 255
        return best_class(self._net(pictures), (images.shape[1], images.shape[2]), self._unknown)


def make_card(plan: SegmenterPlan, trainer: SegmenterTrainer, steps: int, seconds: float) -> SegmenterCard:
    """Score the averaged network and both baselines on the unseen pairs, and build the card."""
    recipe, labels = plan.recipe, plan.recipe.labels
    results: dict[str, Agreement] = {}
    if plan.unseen:
        unknown = labels.unknown_channel
        color = ColorAndPosition(labels.num_classes, unknown, plan.balance)
        predictors: dict[str, Predictor] = {
            "segmenter": _Network(trainer.averaged(), trainer.device, unknown),
            "majority": MajorityClass(plan.counts, unknown),
            "color_position": color.fit(_pairs(plan, [(plan.packed, i) for i in plan.fitted])),
        }
        for name, predictor in predictors.items():
            results[name] = agreement_on(predictor, _pairs(plan, plan.unseen), labels.num_classes, unknown)
    return SegmenterCard(
        name=f"{recipe.name}_segmenter",
        architecture=plan.arch,
        labels=labels,
        description=f"Segments photographs into the classes of {labels.name}; trained from scratch, without other "
        "networks or renders",
        licence=recipe.data.licence,
        miou_real=_mean_iou(results, "segmenter"),
        miou_majority=_mean_iou(results, "majority"),
        miou_color_position=_mean_iou(results, "color_position"),
        training={
            "data": recipe.data.source,
            "samples": len(plan.fitted),
            "held_out": len(plan.unseen),
            **{k: v for k, v in plan.settings().items() if k not in ("pairs", "size", "width")},
            "steps": steps,
            "images": steps * plan.batch,
            "seconds": round(seconds, 1),
            "hardware": hardware_name(plan.device),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        metrics=_metrics(plan, results),
    )


def _pairs(plan: SegmenterPlan, which: Any) -> Iterator[Pair]:
    packed: Packed
    for packed, index in which:
        yield whole_pair(packed, index, plan.arch.size)


def _mean_iou(results: dict[str, Agreement], name: str) -> float | None:
    return round(results[name].mean_iou, 4) if name in results else None


def _metrics(plan: SegmenterPlan, results: dict[str, Agreement]) -> dict[str, Any]:
    if not results:
        return {}
    height, width = plan.arch.size
    packed = "x".join(map(str, plan.packed.size))
    names = [c.name for c in plan.recipe.labels.classes]
    protocol = f"{len(plan.unseen)} photographs, {plan.unseen_are}; packed at {packed}, compared at {height}x{width}"
    table: dict[str, Any] = {"protocol": protocol}
    for name, result in results.items():
        table[name] = {
            "mean_iou": round(result.mean_iou, 4),
            "pixel_accuracy": round(result.accuracy, 4),
            "frequency_weighted_iou": round(result.frequency_weighted_iou, 4),
        }
    iou = zip(names, results["segmenter"].class_iou, results["segmenter"].counted, strict=True)
    table["class_iou"] = {name: round(float(value), 4) for name, value, counted in iou if counted}
    return table
