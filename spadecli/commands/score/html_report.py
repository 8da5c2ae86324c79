"""scores.html: one page for people, with everything in it; it asks nothing from outside."""

from __future__ import annotations

import base64
import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...data.masks import read_photo
from ...store.atomic import write_text
from .result import ScoreResult
from .segmentation import PixelCounts, Segmentation, SegmentationPlan, predict
from .sets import stem
from .source_masks import channel_colors
from .words import distance_rows, diversity_row, look_rows, percent, protocol_words

SHOWN = 6  # best and worst images, each
THUMBNAIL = 192  # longer side of an embedded picture, pixels
MAX_MATRIX_CLASSES = 40  # beyond it the matrix is drawn as a picture, without numbers


def write_report(path: Path, result: ScoreResult, plan: SegmentationPlan | None, counted: PixelCounts | None) -> Path:
    """Write the page: numbers beside their floors, classes, confusion, best and worst images, protocol."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(__package__, ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    seen = result.segmentation
    page = environment.get_template("report.html.jinja").render(
        title=f"Scores of {result.protocol.renders or 'photographs'}",
        facts=_facts(result),
        distances=[{"name": d.frechet_name, "rows": distance_rows(d)} for d in result.distances],
        segmentation=_segmentation(seen) if seen else None,
        matrix=_matrix(plan, counted) if plan and counted else None,
        images=_best_and_worst(plan, counted) if plan and counted else [],
        look=look_rows(result.look) if result.look else [],
        diversities=[diversity_row(d) for d in (result.diversity, result.lpips) if d],
        style=result.style.rows() if result.style else [],
        protocol=protocol_words(result.protocol),
        not_run=result.protocol.not_run,
        facts_of_preset=result.protocol.facts,
        uncertain=result.protocol.uncertain,
    )
    write_text(path, page)
    return path


def _facts(result: ScoreResult) -> list[tuple[str, str]]:
    p = result.protocol
    facts = [("renders", f"{p.render_count:,}"), ("weights", p.weights or "unknown"), ("set", p.split)]
    return [*facts, ("protocol", p.preset)] if p.preset else facts


def _segmentation(seen: Segmentation) -> dict[str, Any]:
    photos = seen.photos
    tiles = [
        ("mean IoU", seen.mean_iou, photos.mean_iou if photos else None),
        ("pixel accuracy", seen.accuracy, photos.accuracy if photos else None),
        ("frequency-weighted IoU", seen.frequency_weighted_iou, photos.frequency_weighted_iou if photos else None),
    ]
    total = sum(c.pixels for c in seen.classes)
    return {
        "segmenter": seen.segmenter,
        "tiles": [
            (name, percent(value), percent(ceiling) if ceiling is not None else "") for name, value, ceiling in tiles
        ],
        "classes": [
            {
                **asdict(c),
                "css": "rgb({} {} {})".format(*c.color),
                "share": percent(c.pixels / total) if total else "",
                "iou_text": percent(c.iou) if c.iou is not None else "absent",
                "photo_text": percent(c.photo_iou) if c.photo_iou is not None else "",
            }
            for c in sorted(seen.classes, key=lambda c: -(c.iou if c.iou is not None else -1))
        ],
        "has_photos": photos is not None,
        "ratio": percent(seen.ratio) if seen.ratio is not None else "",
    }


def _matrix(plan: SegmentationPlan, counted: PixelCounts) -> dict[str, Any]:
    """The confusion matrix by shares of the rows; classes without a pixel on either side are left out."""
    matrix, names = counted.matrix, [c.name for c in plan.labels.classes] + ["none of them"]
    rows = np.flatnonzero(matrix.sum(axis=1))
    columns = np.flatnonzero(matrix.sum(axis=0))
    shares = matrix[rows] / matrix[rows].sum(axis=1, keepdims=True)
    if max(len(rows), len(columns)) > MAX_MATRIX_CLASSES:
        grey = (255 - 255 * shares[:, columns]).astype(np.uint8)
        picture = np.repeat(np.repeat(grey, 4, axis=0), 4, axis=1)
        return {"picture": _data_url(np.repeat(picture[..., None], 3, axis=2), "PNG"), "columns": [], "rows": []}
    cells = [
        {
            "name": names[r],
            "cells": [
                {
                    "share": float(shares[i, c]),
                    "text": f"{shares[i, c]:.0%}",
                    "pixels": f"{matrix[r, c]:,}",
                    "own": r == c,
                }
                for c in columns
            ],
        }
        for i, r in enumerate(rows)
    ]
    return {"picture": "", "columns": [names[c] for c in columns], "rows": cells}


def _best_and_worst(plan: SegmentationPlan, counted: PixelCounts) -> list[tuple[str, list[dict[str, Any]]]]:
    scores = counted.mean_iou
    order = [int(i) for i in np.argsort(-scores, kind="stable") if np.isfinite(scores[i])]
    shown = min(SHOWN, len(order) // 2) or len(order)
    parts = [("Best images", order[:shown]), ("Worst images", order[::-1][:shown] if len(order) > 1 else [])]
    return [(title, [_shot(plan, counted, i) for i in chosen]) for title, chosen in parts if chosen]


def _shot(plan: SegmentationPlan, counted: PixelCounts, index: int) -> dict[str, Any]:
    item = counted.pictures[index]
    _, (truth,), (predicted,) = next(predict(plan, [item], 1))
    return {
        "name": stem(item),
        "score": percent(counted.mean_iou[index]),
        "pictures": [
            ("mask", _data_url(channel_colors(truth, plan.labels), "PNG")),
            ("render", _data_url(read_photo(item.path), "JPEG")),
            ("what the segmenter sees", _data_url(channel_colors(predicted, plan.labels), "PNG")),
        ],
    }


def _data_url(pixels: NDArray[np.uint8], kind: str) -> str:
    image = Image.fromarray(pixels)
    if kind == "JPEG":
        image.thumbnail((THUMBNAIL * 2, THUMBNAIL * 2), Image.Resampling.BICUBIC)
    else:
        image.thumbnail((THUMBNAIL * 2, THUMBNAIL * 2), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 90} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
