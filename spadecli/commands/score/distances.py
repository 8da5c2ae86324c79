"""Distances between sets in the features of one network: planned first, then measured, beside their floor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...core.errors import UserError
from ...core.report import Report
from ...core.sizes import Size, format_size
from ...data.folder import Item, scan
from ...metrics.extractors import FeatureNetwork
from ...metrics.features import CLEAN_SIZE, RESIZE_WORDS, FeatureReader
from ...metrics.kernel import KernelDistance, kernel_distance
from ...metrics.prdc import DENSITY_COVERAGE_NEIGHBOURS, PRECISION_RECALL_NEIGHBOURS, Prdc, prdc
from ...metrics.realset import PictureSet, load_real, save_real
from .options import ScoreOptions, ScoreSettings
from .protocol import DistanceProtocol, size_counts, was_training_loss
from .sets import check_are_photos, common_size, select, sizes_of, without


@dataclass(frozen=True)
class RealVsReal:
    """Real photographs against other real ones at the renders' count: mean and deviation over draws."""

    count: int
    draws: int
    frechet_mean: float
    frechet_deviation: float
    kernel_mean: float | None
    kernel_deviation: float | None
    prdc_mean: Prdc | None


@dataclass(frozen=True)
class Distances:
    """Distances of renders to photographs in the features of one network.

    The renders' own are None where only the floor was asked for; kernel and prdc also where the real set is
    statistics alone or too few pictures.
    """

    frechet_name: str
    kernel_name: str
    frechet: float | None
    kernel: KernelDistance | None
    prdc: Prdc | None
    floor: RealVsReal | None


@dataclass(frozen=True)
class DistancePlan:
    """Checked inputs of :func:`measure_distances`. ``known``: statistics of the real set in place of photographs."""

    network: FeatureNetwork
    renders: list[Item]
    real: list[Item]
    known: PictureSet | None
    floor: list[list[Item]]
    protocol: DistanceProtocol


def plan_distances(
    options: ScoreOptions,
    settings: ScoreSettings,
    network: FeatureNetwork,
    renders: list[Item],
    names: tuple[str, ...],
    weights: Path | None,
    real_source: Path,
    report: Report,
) -> DistancePlan:
    """Find and check both sets, the size, and the draws of the floor.

    Raises UserError on sets of one picture, mixed sizes, statistics of another network, or sets of which no
    picture pairs.
    """
    known, real = None, list[Item]()
    if real_source.is_file():
        known = load_real(real_source, network)
    else:
        real = select(scan(real_source, "photos"), names, str(real_source))
    for folder, pictures in ((options.renders, renders), (real_source, real)):
        if pictures and len(pictures) < 2:
            raise UserError(f"{folder}: a distance between sets needs two pictures or more (found {len(pictures)})")
    render_sizes, real_sizes = sizes_of(renders), sizes_of(real)
    check_are_photos(real)
    size = _size(options, settings, known, render_sizes, real_sizes, real_source)
    paired = _paired(options, renders, real, real_source) if known is None else None
    floor = _floor_draws(options, real_source, real, len(renders) or len(real), report)
    protocol = DistanceProtocol(
        extractor=network.name,
        extractor_sha256=network.sha256,
        dimensions=network.dimensions,
        extractor_was_training_loss=was_training_loss(network.name, weights),
        size=size,
        resize=RESIZE_WORDS[settings.resize],
        real=str(real_source),
        real_count=known.count if known else len(real),
        real_sizes=size_counts(real_sizes),
        paired=paired,
        neighbours=f"{PRECISION_RECALL_NEIGHBOURS} for precision and recall, "
        f"{DENSITY_COVERAGE_NEIGHBOURS} for density and coverage",
        floor_from=str(options.floor_from or real_source) if floor else "",
        floor_count=len(floor[0]) if floor else 0,
        floor_draws=len(floor),
    )
    return DistancePlan(network, renders, real, known, floor, protocol)


def _size(
    options: ScoreOptions,
    settings: ScoreSettings,
    known: PictureSet | None,
    render_sizes: Counter[Size],
    real_sizes: Counter[Size],
    real_source: Path,
) -> Size:
    """The size at which pictures are compared: the preset's, the option's, that of saved statistics, the renders'."""
    saved = tuple(known.config.get("size", ())) if known else ()
    if settings.resize == "clean":
        size: Size = CLEAN_SIZE
    elif options.size is not None:
        size = options.size
    elif len(saved) == 2:
        size = (int(saved[0]), int(saved[1]))
    elif options.renders is not None:
        size = common_size(render_sizes, options.renders)
    else:
        size = common_size(real_sizes, real_source)
    wanted = (size, RESIZE_WORDS[settings.resize])
    if known and (found := (saved, known.config.get("resize"))) != wanted:
        made = format_size((int(saved[0]), int(saved[1]))) if len(saved) == 2 else "an unknown size"
        raise UserError(
            f"{real_source}: statistics at {made}, {found[1]}; asked for {format_size(size)}, {wanted[1]}",
            hint="compare as they were made, or make them again with --save-real",
        )
    return size


def _paired(options: ScoreOptions, renders: list[Item], real: list[Item], real_source: Path) -> int:
    paired = len({p.key for p in renders} & {p.key for p in real})
    if renders and not paired and not options.unpaired:
        raise UserError(
            f"{real_source}: no photograph is named as a render's mask in {options.renders}",
            problems=[f"first render: {renders[0].key}", f"first photograph: {real[0].key}"],
            hint="--unpaired compares the two sets all the same",
        )
    return paired


def _floor_draws(
    options: ScoreOptions, real_source: Path, real: list[Item], count: int, report: Report
) -> list[list[Item]]:
    """``draws`` random sets of ``count`` photographs that are not in ``real``; none if there are too few."""
    source = options.floor_from or (real_source if real_source.is_dir() else None)
    if source is None:
        report.note("no floor: it needs photographs; give --floor-from")
        return []
    pool = without(scan(source, "photos"), real)
    if len(pool) < count:
        message = f"{source}: the floor needs {count} photographs besides the real ones, found {len(pool)}"
        if options.floor_from:
            raise UserError(message, hint="give a folder with more photographs, or leave --floor-from out")
        report.note(f"no floor: {message}; give --floor-from")
        return []
    random = np.random.RandomState(options.seed)  # its stream is frozen, unlike Generator's
    return [[pool[i] for i in random.choice(len(pool), count, replace=False)] for _ in range(options.draws)]


def measure_distances(
    plan: DistancePlan, options: ScoreOptions, settings: ScoreSettings, cache: Path, report: Report
) -> tuple[Distances, dict[str, str]]:
    """The distances, and the SHA-256 of every picture that was read for them."""
    reader = FeatureReader(plan.network, plan.protocol.size, cache, options.batch, settings.resize)
    real = plan.known or PictureSet(reader.read([p.path for p in plan.real], report))
    if options.save_real and plan.known is None:
        _save_real(options.save_real, plan, real, reader)
    frechet, kernel, neighbours = None, None, None
    if plan.renders:
        rendered = PictureSet(reader.read([p.path for p in plan.renders], report))
        frechet = rendered.frechet(real)
        kernel = _kernel(rendered, real, options.seed)
        neighbours = _prdc(rendered, real, report)
    floor = _real_vs_real(reader, plan.floor, real, options.seed, report) if plan.floor else None
    names = plan.network.frechet_name, plan.network.kernel_name
    hashes = {str(path): sha for path, sha in reader.sha256.items()}
    return Distances(*names, frechet, kernel, neighbours, floor), hashes


def _kernel(a: PictureSet, b: PictureSet, seed: int) -> KernelDistance | None:
    if a.features is None or b.features is None:
        return None
    return kernel_distance(a.features, b.features, seed=seed)


def _prdc(a: PictureSet, b: PictureSet, report: Report | None = None) -> Prdc | None:
    if a.features is None or b.features is None:
        return None
    if min(a.count, b.count) <= DENSITY_COVERAGE_NEIGHBOURS:
        if report:
            report.note(f"no precision and recall: they need more than {DENSITY_COVERAGE_NEIGHBOURS} pictures a set")
        return None
    return prdc(a.features, b.features)


def _save_real(path: Path, plan: DistancePlan, real: PictureSet, reader: FeatureReader) -> None:
    protocol = plan.protocol
    config = {
        "extractor": protocol.extractor,
        "extractor_sha256": protocol.extractor_sha256,
        "size": list(protocol.size),
        "resize": protocol.resize,
        "count": protocol.real_count,
    }
    save_real(path, real, config, {p.key: reader.sha256[p.path] for p in plan.real})


def _real_vs_real(
    reader: FeatureReader, draws: list[list[Item]], real: PictureSet, seed: int, report: Report
) -> RealVsReal:
    drawn = list({p.path: p for draw in draws for p in draw}.values())
    row = {p.path: i for i, p in enumerate(drawn)}
    features = reader.read([p.path for p in drawn], report)
    sets = [PictureSet(features[[row[p.path] for p in draw]]) for draw in draws]
    frechet = [other.frechet(real) for other in sets]
    kernels = [k.mean for other in sets if (k := _kernel(other, real, seed))]
    neighbours = [p for other in sets if (p := _prdc(other, real))]
    return RealVsReal(
        count=len(draws[0]),
        draws=len(draws),
        frechet_mean=float(np.mean(frechet)),
        frechet_deviation=_deviation(frechet),
        kernel_mean=float(np.mean(kernels)) if kernels else None,
        kernel_deviation=_deviation(kernels) if kernels else None,
        prdc_mean=_mean_prdc(neighbours) if neighbours else None,
    )


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1 if len(values) > 1 else 0))  # the deviation of one draw is 0


def _mean_prdc(values: Sequence[Prdc]) -> Prdc:
    rows = np.array([(p.precision, p.recall, p.density, p.coverage) for p in values])
    return Prdc(*(float(v) for v in rows.mean(axis=0)))
