"""How much the samples of a mask differ: planned, then measured mask by mask."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.errors import UserError
from ...core.report import Report
from ...data.folder import Item
from ...data.masks import read_photo
from ...metrics.diversity import sample_distances
from ...store.h5 import file_sha256
from .options import ScoreOptions
from .protocol import DiversityProtocol, perceptual_network
from .sets import styles_of

if TYPE_CHECKING:
    from torch import Tensor

    from ...model.lpips import Lpips
    from ...model.perceptual import PerceptualLoss

INPUT = "RGB in [-1,1] (bytes / 127.5 - 1)"

Groups = Mapping[str, list[Item]]


@dataclass(frozen=True)
class Diversity:
    """Mean over masks of the mean distance between two samples, its deviation over masks, and each mask's.

    pairs: how many pairs of samples were measured, over all masks.
    """

    name: str
    mean: float
    deviation: float
    pairs: int
    masks: tuple[str, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class DiversityPlan:
    """Checked inputs of :func:`measure_diversity`: the samples of each mask that has several.

    heads: learned weights of the channels of each map; None: all 1.
    """

    name: str
    network: PerceptualLoss | Lpips
    heads: Sequence[Tensor] | None
    groups: Groups
    protocol: DiversityProtocol


def group_samples(options: ScoreOptions, samples: Sequence[Item]) -> Groups:
    """The samples of each mask and style that has several."""
    groups: dict[str, list[Item]] = defaultdict(list)
    styles = styles_of(options.renders) if options.renders else {}
    for item in samples:
        style = styles.get(item.relative)
        groups[f"{style}/{item.key}" if style else item.key].append(item)
    return {key: items for key, items in groups.items() if len(items) > 1}


def plan_diversity(options: ScoreOptions, groups: Groups, weights: Path | None) -> DiversityPlan | str:
    """Open the network of the perceptual loss; or the reason why there is no plan.

    Raises UserError if a requested network is not available.
    """
    if options.perceptual == "none":
        return "--perceptual none"
    if not groups:
        return without_samples(options, asked=options.perceptual != "auto")
    found = _network(options, weights)
    if isinstance(found, str):
        return found
    kind, network, source, file = found
    words = f"{kind}, {len(network.taps)} taps, unit-normalised, no learned weights (not LPIPS)"
    protocol = diversity_protocol(words, source, [file], f"{INPUT}, scaled as for the perceptual loss", groups)
    return DiversityPlan(f"diversity ({kind})", network, None, groups, protocol)


def without_samples(options: ScoreOptions, asked: bool) -> str:
    """Why there is nothing to compare. Raises UserError if it was ``asked`` for."""
    if asked:
        raise UserError(
            f"{options.renders}: no mask has two samples", hint="render with --samples 2 or more, in one folder"
        )
    return "no mask has two samples: render with --samples 2 or more"


def diversity_protocol(
    network: str, weights: str, files: Sequence[Path], given: str, groups: Groups
) -> DiversityProtocol:
    """The protocol of a distance by ``network`` from ``files``, whose input is ``given``."""
    counts = [len(items) for items in groups.values()]
    return DiversityProtocol(
        network=network,
        weights=weights,
        weights_sha256=" + ".join(map(file_sha256, files)),
        input=given,
        masks=len(groups),
        samples=" to ".join(str(n) for n in sorted({min(counts), max(counts)})),
        pairs=sum(n * (n - 1) // 2 for n in counts),
    )


def _kind(options: ScoreOptions, weights: Path | None) -> str:
    if options.perceptual != "auto":
        return options.perceptual
    return (perceptual_network(weights) or "none") if weights else "none"


def _network(options: ScoreOptions, weights: Path | None) -> tuple[str, PerceptualLoss, str, Path] | str:
    """Kind, network, where its weights are from, and their file; or the reason why there is none."""
    from ...model.perceptual import NETWORKS, URLS, is_fetched, load_perceptual
    from ...model.pretrained import cached_file

    kind = _kind(options, weights)
    hint = "name one with --perceptual squeezenet, vgg16 or vgg19, and --perceptual-weights FILE"
    network = next((known for known in NETWORKS if known == kind), None)
    if network is None:
        return f"the perceptual network of these weights' training is not known; {hint}"
    if (given := options.perceptual_weights) is not None:
        return kind, load_perceptual(network, given), str(given), given
    if options.perceptual == "auto" and not is_fetched(network):
        return f"the {kind} network is not on this machine; --perceptual {kind} fetches it once, or {hint}"
    url = URLS[network]
    return kind, load_perceptual(network), url, cached_file(url)


def measure_diversity(plan: DiversityPlan, device: str, batch: int, report: Report) -> Diversity:
    """Mean distance between the samples of each mask; ``batch``: pictures per call of the network.

    Raises UserError that lists every mask whose samples cannot be read or differ in size.
    """
    from ...compute.devices import pick_device

    target: Any = pick_device(device)
    network = plan.network.to(target)
    values, problems = [], []
    with report.progress(plan.name, len(plan.groups)) as task:
        for key, items in plan.groups.items():
            try:
                pictures = [read_photo(item.path) for item in items]
                if len({p.shape for p in pictures}) > 1:
                    raise UserError("samples of different sizes")
                found = sample_distances(network.maps, np.stack(pictures), target, plan.heads, batch)
                values.append(float(found.mean()))
            except UserError as e:
                problems.append(f"{key}: {e.line}")
            task.advance()
    if problems:
        raise UserError(f"samples of {len(problems)} masks cannot be compared", problems=problems)
    return Diversity(
        name=plan.name,
        mean=float(np.mean(values)),
        deviation=float(np.std(values)),
        pairs=plan.protocol.pairs,
        masks=tuple(plan.groups),
        values=tuple(values),
    )
