"""``spade score``: how far renders are from real photographs, with the protocol that the number belongs to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..core.cache import cache_dir
from ..core.errors import BackendUnavailable, UserError
from ..core.recipe import find_recipe, load_recipe
from ..core.report import Report, Silent
from ..data.folder import Item, scan
from ..metrics.frechet import frechet_distance
from ..metrics.kernel import KernelDistance, kernel_distance
from ..store import h5
from ..store.manifest import NAME as MANIFEST_NAME
from .score_protocol import Protocol, find_weights, size_counts, was_training_loss
from .score_sets import Samples, common_size, renders_in, select, sizes_of, without

if TYPE_CHECKING:
    from ..metrics.features import Extractor, FeatureReader

INCEPTION_FILE = "inception-2015-12-05.pt"
INCEPTION_URL = f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{INCEPTION_FILE}"


@dataclass(frozen=True)
class ScoreOptions:
    """What to score, and how.

    renders: folder of renders, or None for the floor alone. real: folder of photographs. only, holdout: score
        just these names, or just the names that a recipe holds out. floor_from: photographs that the floor draws
        from; None: the photographs in ``real`` that the selection leaves over.
    extractor or inception: the TorchScript file of the features. size: (height, width) at which pictures are
        compared; None: the renders' own. weights: what made the renders, to say whether the extractor was also a
        training loss; None: what the renders' manifest names, if it is among the shipped weights. draws, seed: of
        the floor. out: where the scores go; None: scores.h5 beside the renders.
    """

    renders: Path | None
    real: Path
    extractor: Path | None = None
    inception: Path | None = None
    size: tuple[int, int] | None = None
    only: tuple[str, ...] = ()
    holdout: str = ""
    floor_from: Path | None = None
    samples: Samples = "first"
    weights: Path | None = None
    draws: int = 10
    seed: int = 0
    batch: int = 32
    device: str = "auto"
    cache: Path | None = None
    out: Path | None = None


@dataclass(frozen=True)
class Floor:
    """Real photographs against other real ones at the renders' count: mean and deviation over draws."""

    count: int
    draws: int
    frechet_mean: float
    frechet_deviation: float
    kernel_mean: float
    kernel_deviation: float


@dataclass(frozen=True)
class ScoreResult:
    """Distances of the renders (None where only the floor was asked for), their floor, and the protocol."""

    frechet_name: str
    kernel_name: str
    frechet: float | None
    kernel: KernelDistance | None
    floor: Floor | None
    protocol: Protocol
    path: Path | None

    def as_json(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        return {**asdict(self), "path": str(self.path) if self.path else None}


@dataclass(frozen=True)
class Plan:
    """A checked set of inputs: everything is there and readable, nothing is computed yet."""

    renders: list[Item]
    real: list[Item]
    floor: list[list[Item]]
    extractor: Extractor
    protocol: Protocol


def plan_score(options: ScoreOptions, report: Report | None = None) -> Plan:
    """Find and check everything that ``score`` needs.

    Raises UserError where folders, names, sizes or the extractor are wrong; BackendUnavailable where there is
    no extractor at all.
    """
    report = report or Silent()
    names, split = _selection(options)
    real = select(scan(options.real, "photos"), names, str(options.real))
    renders: list[Item] = []
    if options.renders is not None:
        renders = select(renders_in(options.renders, options.samples), names, str(options.renders))
    for folder, pictures in ((options.renders, renders), (options.real, real)):
        if folder is not None and len(pictures) < 2:
            raise UserError(f"{folder}: a distance between sets needs two pictures or more (found {len(pictures)})")
    render_sizes, real_sizes = sizes_of(renders), sizes_of(real)
    size = options.size
    if size is None:
        size = common_size(render_sizes, options.renders) if options.renders else common_size(real_sizes, options.real)
    floor = _floor_draws(options, real, len(renders) or len(real), report)
    extractor = _open_extractor(options)
    protocol = _protocol(options, extractor, size, split, renders, real, floor, render_sizes, real_sizes)
    return Plan(renders, real, floor, extractor, protocol)


def score(options: ScoreOptions, report: Report | None = None) -> ScoreResult:
    """Fréchet and kernel distance of renders to photographs, and the floor of both at the same counts.

    The scores and their protocol are stored in an HDF5 file beside the renders, or at ``options.out``.
    """
    from ..metrics.features import FeatureReader

    report = report or Silent()
    plan = plan_score(options, report)
    _warn(plan, report)
    cache = options.cache or cache_dir()
    reader = FeatureReader(plan.extractor, plan.protocol.size, cache, options.batch)
    real = _read(reader, plan.real, report)
    frechet, kernel = None, None
    if plan.renders:
        rendered = _read(reader, plan.renders, report)
        frechet = frechet_distance(rendered, real)
        kernel = kernel_distance(rendered, real, seed=options.seed)
    floor = _floor(reader, plan.floor, real, options.seed, report) if plan.floor else None
    path = options.out or (options.renders / "scores.h5" if options.renders else None)
    names = plan.extractor.frechet_name, plan.extractor.kernel_name
    result = ScoreResult(*names, frechet, kernel, floor, plan.protocol, path)
    if path:
        _store(result, path, {str(p): sha for p, sha in reader.sha256.items()})
    return result


def _selection(options: ScoreOptions) -> tuple[tuple[str, ...], str]:
    """The names to score, and the words for them."""
    if options.only and options.holdout:
        raise UserError("--only and --holdout exclude each other")
    if options.only:
        return options.only, f"{len(options.only)} names"
    if not options.holdout:
        return (), "all pictures"
    recipe = load_recipe(find_recipe(options.holdout)).recipe
    if not recipe.data.holdout:
        raise UserError(f"recipe {recipe.name} holds nothing out", hint="list names in data.holdout, or use --only")
    return recipe.data.holdout, f"held out by recipe {recipe.name}"


def _floor_draws(options: ScoreOptions, real: list[Item], count: int, report: Report) -> list[list[Item]]:
    """``draws`` random sets of ``count`` photographs that are not in ``real``; none where there are too few."""
    source = options.floor_from or options.real
    pool = without(scan(source, "photos"), real)
    if len(pool) < count:
        message = f"{source}: the floor needs {count} photographs besides the real ones, found {len(pool)}"
        if options.floor_from:
            raise UserError(message, hint="give a folder with more photographs, or leave --floor-from away")
        report.note(f"no floor: {message}; give --floor-from")
        return []
    random = np.random.RandomState(options.seed)  # its stream is frozen, unlike Generator's
    return [[pool[i] for i in random.choice(len(pool), count, replace=False)] for _ in range(options.draws)]


def _open_extractor(options: ScoreOptions) -> Extractor:
    """The extractor that was asked for, else the FID Inception where the cache has it."""
    from ..metrics.features import open_extractor

    if options.extractor and options.inception:
        raise UserError("--extractor and --inception exclude each other")
    if options.extractor:
        return open_extractor(options.extractor, device=options.device)
    cached = (options.cache or cache_dir()) / INCEPTION_FILE
    if not options.inception and not cached.is_file():
        raise BackendUnavailable(
            "no feature extractor: the FID Inception is not on this machine",
            hint=f"curl --create-dirs -o {cached} {INCEPTION_URL}   (or another TorchScript file: --extractor FILE)",
        )
    return open_extractor(options.inception or cached, inception=True, device=options.device)


def _protocol(
    options: ScoreOptions,
    extractor: Extractor,
    size: tuple[int, int],
    split: str,
    renders: list[Item],
    real: list[Item],
    floor: list[list[Item]],
    render_sizes: Counter[tuple[int, int]],
    real_sizes: Counter[tuple[int, int]],
) -> Protocol:
    from ..metrics.features import RESIZE_FILTER

    weights, weights_name, weights_sha256 = find_weights(options.renders, options.weights)
    by_manifest = bool(options.renders and (options.renders / MANIFEST_NAME).is_file())
    return Protocol(
        renders=str(options.renders or ""),
        render_count=len(renders),
        samples=options.samples if by_manifest else "every picture",
        weights=weights_name,
        weights_sha256=weights_sha256,
        real=str(options.real),
        real_count=len(real),
        paired=len({p.key for p in renders} & {p.key for p in real}),
        split=split,
        size=size,
        render_sizes=size_counts(render_sizes),
        real_sizes=size_counts(real_sizes),
        resize=RESIZE_FILTER,
        extractor=extractor.name,
        extractor_sha256=extractor.sha256,
        dimensions=extractor.dimensions,
        extractor_was_training_loss=was_training_loss(extractor.name, weights),
        floor_from=str(options.floor_from or options.real) if floor else "",
        floor_count=len(floor[0]) if floor else 0,
        floor_draws=len(floor),
        seed=options.seed,
    )


def _warn(plan: Plan, report: Report) -> None:
    """What a reader of the number should know first."""
    protocol = plan.protocol
    few = min(n for n in (protocol.render_count, protocol.real_count) if n)
    if few <= protocol.dimensions:
        report.warn(
            f"{few} pictures are few for {protocol.dimensions} dimensions: "
            "the distance depends on the count; compare it at equal counts only, and with its floor"
        )
    if plan.renders and protocol.paired < len({p.key for p in plan.renders}):
        report.warn(f"only {protocol.paired} of the renders' masks are named as a photograph in {protocol.real}")
    if protocol.extractor_was_training_loss == "yes":
        report.warn(f"{protocol.extractor} was also a training loss of these weights, which flatters them")


def _read(reader: FeatureReader, pictures: list[Item], report: Report) -> NDArray[np.float32]:
    return reader.read([p.path for p in pictures], report)


def _floor(
    reader: FeatureReader, draws: list[list[Item]], real: NDArray[np.float32], seed: int, report: Report
) -> Floor:
    drawn = list({p.path: p for draw in draws for p in draw}.values())
    row = {p.path: i for i, p in enumerate(drawn)}
    features = _read(reader, drawn, report)
    sets = [features[[row[p.path] for p in draw]] for draw in draws]
    frechet = [frechet_distance(other, real) for other in sets]
    kernel = [kernel_distance(other, real, seed=seed).mean for other in sets]
    spread = 1 if len(draws) > 1 else 0  # the deviation of one draw is 0
    return Floor(
        count=len(draws[0]),
        draws=len(draws),
        frechet_mean=float(np.mean(frechet)),
        frechet_deviation=float(np.std(frechet, ddof=spread)),
        kernel_mean=float(np.mean(kernel)),
        kernel_deviation=float(np.std(kernel, ddof=spread)),
    )


def _store(result: ScoreResult, path: Path, hashes: Mapping[str, str]) -> None:
    """Write the scores file: results and protocol as attributes, the pictures with their hashes as a table."""
    results = {k: v for k, v in result.as_json().items() if k not in ("protocol", "path")}
    protocol = asdict(result.protocol)
    with h5.create(path, "scores", protocol, h5.source_digest(hashes.items())) as f:
        f.attrs["results_json"] = json.dumps(results, sort_keys=True)
        f.attrs["protocol_json"] = json.dumps(protocol, sort_keys=True)
        h5.names(f, hashes)
        h5.names(f, hashes.values(), "sha256")
