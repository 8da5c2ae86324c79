"""Use of the style code by the weights that made the renders: planned, then measured by rendering again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...core.report import Report
from ...data.folder import Item
from ...data.masks import MaskFormat
from ...weights.file import read_card
from ..styles.usage import MAX_MASKS, MAX_PHOTOS, StyleFindings, measure_style
from .options import ScoreOptions
from .protocol import StyleProtocol
from .source_masks import Masks


@dataclass(frozen=True)
class StylePlan:
    """Checked inputs of :func:`measure_use_of_style`."""

    weights: Path
    photos: Sequence[Item]
    masks: Sequence[Item]
    mask_format: MaskFormat
    protocol: StyleProtocol


def plan_style(
    options: ScoreOptions, masks: Masks | None, renders: Sequence[Item], photos: Sequence[Item], weights: Path | None
) -> StylePlan | str:
    """Find weights, the masks of the renders, and the photographs of these masks; or the reason why there is no plan.

    ``photos``: all that there are; they serve weights with an encoder.
    """
    if not options.style:
        return "--no-style"
    if weights is None:
        return "the weights that made these renders were not found; name them with --weights FILE"
    arch = read_card(weights).architecture
    if not arch.uses_z:
        return f"{weights.name} starts from the map alone (latent = map): there is no style"
    if masks is None:
        return "no masks: name them with --labels MASKS"
    keys = [render.key for render in renders]
    found = [Item(masks.files[key], key, key) for key in keys if key in masks.files]
    if len(found) < 2:
        return "needs two masks or more"
    own = set(keys)
    encoded = [p for p in photos if p.key in own] if arch.has_encoder else []
    protocol = StyleProtocol(
        masks=f"{min(len(found), MAX_MASKS)} of {len(found)} from {masks.source}",
        photos=f"{min(len(encoded), MAX_PHOTOS)} of {len(encoded)} from {options.real}" if encoded else "",
    )
    return StylePlan(weights, encoded, found, masks.mask_format, protocol)


def measure_use_of_style(plan: StylePlan, device: str, report: Report) -> StyleFindings:
    """See :func:`spadecli.commands.styles.usage.measure_style`."""
    return measure_style(plan.weights, plan.photos, plan.masks, device, report, plan.mask_format)
