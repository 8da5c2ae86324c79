"""How much the samples of a mask differ: planned, then measured mask by mask."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.errors import UserError
from ...core.report import Report
from ...data.folder import Item
from ...data.masks import read_photo
from ...metrics.diversity import sample_distances
from .options import ScoreOptions
from .protocol import DiversityProtocol, perceptual_network
from .sets import styles_of

if TYPE_CHECKING:
    from ...model.perceptual import PerceptualLoss


@dataclass(frozen=True)
class Diversity:
    """Mean over masks of the mean distance between two samples, its deviation over masks, and each mask's."""

    name: str
    mean: float
    deviation: float
    masks: tuple[str, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class DiversityPlan:
    """Checked inputs of :func:`measure_diversity`: the samples of each mask that has several."""

    network: PerceptualLoss
    groups: dict[str, list[Item]]
    protocol: DiversityProtocol


def plan_diversity(options: ScoreOptions, samples: Sequence[Item], weights: Path | None) -> DiversityPlan | str:
    """Group the samples by mask and style and open the network; or the reason why there is no plan.

    Raises UserError if a requested network is not available.
    """
    groups: dict[str, list[Item]] = defaultdict(list)
    styles = styles_of(options.renders) if options.renders else {}
    for item in samples:
        style = styles.get(item.relative)
        groups[f"{style}/{item.key}" if style else item.key].append(item)
    several = {key: items for key, items in groups.items() if len(items) > 1}
    asked = options.perceptual not in ("auto", "none")
    if options.perceptual == "none":
        return "--perceptual none"
    if not several:
        if asked:
            raise UserError(
                f"{options.renders}: no mask has two samples", hint="render with --samples 2 or more, in one folder"
            )
        return "no mask has two samples: render with --samples 2 or more"
    found = _network(options, weights)
    if isinstance(found, str):
        return found
    network, source = found
    counts = sorted({len(items) for items in several.values()})
    protocol = DiversityProtocol(
        network=f"{_kind(options, weights)}, {len(network.taps)} taps, unit-normalised, no learned weights (not LPIPS)",
        weights=source,
        masks=len(several),
        samples=" to ".join(str(n) for n in sorted({counts[0], counts[-1]})),
    )
    return DiversityPlan(network, several, protocol)


def _kind(options: ScoreOptions, weights: Path | None) -> str:
    if options.perceptual != "auto":
        return options.perceptual
    return (perceptual_network(weights) or "none") if weights else "none"


def _network(options: ScoreOptions, weights: Path | None) -> tuple[PerceptualLoss, str] | str:
    from ...model.perceptual import NETWORKS, URLS, is_fetched, load_perceptual

    kind = _kind(options, weights)
    hint = "name one with --perceptual squeezenet, vgg16 or vgg19, and --perceptual-weights FILE"
    network = next((known for known in NETWORKS if known == kind), None)
    if network is None:
        return f"the perceptual network of these weights' training is not known; {hint}"
    if options.perceptual_weights is not None:
        return load_perceptual(network, options.perceptual_weights), str(options.perceptual_weights)
    if options.perceptual == "auto" and not is_fetched(network):
        return f"the {kind} network is not on this machine; --perceptual {kind} fetches it once, or {hint}"
    return load_perceptual(network), URLS[network]


def measure_diversity(plan: DiversityPlan, device: str, report: Report) -> Diversity:
    """Mean distance between the samples of each mask.

    Raises UserError that lists every mask whose samples cannot be read or differ in size.
    """
    from ...compute.devices import pick_device

    target: Any = pick_device(device)
    network = plan.network.to(target)
    values, problems = [], []
    with report.progress("diversity", len(plan.groups)) as task:
        for key, items in plan.groups.items():
            try:
                pictures = [read_photo(item.path) for item in items]
                if len({p.shape for p in pictures}) > 1:
                    raise UserError(f"{key}: samples of different sizes")
                values.append(float(sample_distances(network.maps, np.stack(pictures), target).mean()))
            except UserError as e:
                problems.append(e.line)
            task.advance()
    if problems:
        raise UserError(f"samples of {len(problems)} masks cannot be compared", problems=problems)
    return Diversity(
        name=f"diversity ({plan.protocol.network.split(',')[0]})",
        mean=float(np.mean(values)),
        deviation=float(np.std(values)),
        masks=tuple(plan.groups),
        values=tuple(values),
    )
