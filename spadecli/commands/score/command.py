"""``spade score``: how good renders are, each number with the protocol that it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ...core.cache import cache_dir
from ...core.errors import UserError
from ...core.report import Report, Silent
from ...data.folder import Item, scan
from ...store import h5
from ...store.manifest import NAME as MANIFEST_NAME
from . import distances, segmentation, style
from . import sample_diversity as diversity
from .choose import choose_networks, choose_segmenter
from .distances import DistancePlan
from .html_report import write_report
from .look import LookPlan, measure_looks, plan_looks
from .lpips import plan_lpips
from .options import ScoreOptions, ScoreSettings, check_options, score_settings, selection
from .presets import Preset
from .protocol import Protocol, find_weights, size_counts
from .result import ScoreResult
from .results_file import write_scores
from .sample_diversity import DiversityPlan
from .segmentation import SegmentationPlan
from .sets import renders_in, select, sizes_of
from .source_masks import find_masks
from .style import StylePlan

__all__ = ["ScoreOptions", "ScoreResult", "plan_score", "score"]

DIVERSITY = "diversity between samples"
LPIPS = "LPIPS between samples"
LOOK = "sharpness, light and colours"
STYLE = "use of style"

T = TypeVar("T")


@dataclass(frozen=True)
class ScorePlan:
    """A checked set of inputs: everything is there and readable, nothing is computed yet."""

    settings: ScoreSettings
    renders: list[Item]
    distances: list[DistancePlan]
    segmentation: SegmentationPlan | None
    look: LookPlan | None
    diversity: DiversityPlan | None
    lpips: DiversityPlan | None
    style: StylePlan | None
    protocol: Protocol


def score(options: ScoreOptions, report: Report | None = None) -> ScoreResult:
    """Measure what can be measured: distances with their floor, segmentation scores, diversity.

    The scores and their protocol are stored in an HDF5 file beside the renders or at ``options.out``, and a page
    for people beside that.
    Raises what :func:`plan_score` raises, and UserError that lists every picture that cannot be measured.
    """
    report = report or Silent()
    plan = plan_score(options, report)
    _warn(plan, report)
    measured, hashes = [], dict[str, str]()
    for part in plan.distances:
        found, read = distances.measure_distances(part, options, plan.settings, options.cache or cache_dir(), report)
        measured.append(found)
        hashes.update(read)
    seen, counted = None, None
    if plan.segmentation:
        seen, counted = segmentation.measure_segmentation(plan.segmentation, options.batch, report)
    looked = measure_looks(plan.look, report) if plan.look else None
    varied, learned = (
        diversity.measure_diversity(part, options.device, options.batch, report) if part else None
        for part in (plan.diversity, plan.lpips)
    )
    used = style.measure_use_of_style(plan.style, options.device, report) if plan.style else None
    path = options.out or (options.renders / "scores.h5" if options.renders else None)
    page = path.with_suffix(".html") if path and options.report else None
    result = ScoreResult(tuple(measured), seen, looked, varied, learned, used, plan.protocol, path, page)
    if path:
        hashes.update({str(p.path): h5.file_sha256(p.path) for p in plan.renders if str(p.path) not in hashes})
        plain = result.as_json()
        results = {k: plain[k] for k in ("distances", "segmentation", "look", "diversity", "lpips", "style")}
        labels = plan.segmentation.labels if plan.segmentation else None
        write_scores(path, results, plan.protocol, hashes, counted, labels, {"diversity": varied, "lpips": learned})
    if page:
        write_report(page, result, plan.segmentation, counted)
    return result


def plan_score(options: ScoreOptions, report: Report | None = None, fetch: bool = True) -> ScorePlan:
    """Find and check everything that ``score`` needs.

    ``fetch``: the FID Inception and the AlexNet of LPIPS may be fetched. What was requested and is impossible is an
    error; the rest that is not measured is in ``protocol.not_run``.
    Raises UserError where folders, names, sizes, classes or networks are wrong; BackendUnavailable if no network
    to measure with is available.
    """
    report = report or Silent()
    check_options(options)
    settings, not_run = score_settings(options), dict[str, str]()
    if options.real is not None and not options.real.exists():  # before anything is fetched
        raise UserError(f"{options.real}: no such folder, and no file of statistics")
    names, split = selection(options)
    renders, every = _renders(options, settings, names)
    weights, weights_name, weights_sha256 = find_weights(options.renders, options.weights)

    # what a segmenter sees, before distances: its features may have to measure them
    masks = find_masks(options.renders, options.labels) if options.renders else None
    segmenter, labels = choose_segmenter(options, masks, weights, not_run)
    photos = scan(options.real, "photos") if options.real and options.real.is_dir() else []
    planned = None
    if segmenter and labels and masks:
        planned = segmentation.plan_segmentation(
            segmenter, labels, masks, renders, photos, settings.label_resize, settings.absent
        )

    measures = [
        distances.plan_distances(options, settings, network, renders, names, weights, real, report)
        for network, real in choose_networks(options, segmenter, renders, not_run, fetch, report)
    ]
    looked = _attempt(not_run, LOOK, lambda: plan_looks(options, renders, photos, names)) if every else None
    varied, learned = None, None
    if every:
        groups = diversity.group_samples(options, every)
        varied = _attempt(not_run, DIVERSITY, lambda: diversity.plan_diversity(options, groups, weights))
        learned = _attempt(not_run, LPIPS, lambda: plan_lpips(options, groups, fetch, report))
    used = (
        _attempt(not_run, STYLE, lambda: style.plan_style(options, masks, renders, photos, weights)) if every else None
    )
    _check_anything([*measures, planned, varied, learned], not_run)
    preset = settings.preset
    _note_wants(preset, measures, not_run)
    protocol = Protocol(
        preset=options.protocol or "",
        split=split,
        renders=str(options.renders or ""),
        render_count=len(renders),
        render_sizes=size_counts(sizes_of(renders)),
        samples=settings.samples if _has_manifest(options) else "every picture",
        weights=weights_name,
        weights_sha256=weights_sha256,
        seed=options.seed,
        distances=tuple(part.protocol for part in measures),
        segmentation=planned.protocol if planned else None,
        look=looked.protocol if looked else None,
        diversity=varied.protocol if varied else None,
        lpips=learned.protocol if learned else None,
        style=used.protocol if used else None,
        facts=preset.facts if preset else (),
        uncertain=preset.uncertain if preset else (),
        not_run=not_run,
    )
    return ScorePlan(settings, renders, measures, planned, looked, varied, learned, used, protocol)


def _has_manifest(options: ScoreOptions) -> bool:
    return bool(options.renders and (options.renders / MANIFEST_NAME).is_file())


def _renders(options: ScoreOptions, settings: ScoreSettings, names: tuple[str, ...]) -> tuple[list[Item], list[Item]]:
    """The renders that count, and every sample of their masks."""
    if options.renders is None:
        return [], []
    where = str(options.renders)
    renders = select(renders_in(options.renders, settings.samples), names, where)
    return renders, select(renders_in(options.renders, "all"), names, where)


def _attempt(not_run: dict[str, str], what: str, plan: Callable[[], T | str]) -> T | None:
    """A plan, or None with the reason it gives instead noted in ``not_run``."""
    found = plan()
    if isinstance(found, str):
        not_run[what] = found
        return None
    return found


def _note_wants(preset: Preset | None, measures: list[DistancePlan], not_run: dict[str, str]) -> None:
    """Note what the requested protocol reports and this run does not."""
    if preset and "FID" in preset.wants and not any(m.network.frechet_name == "FID" for m in measures):
        instead = ", ".join(m.network.name for m in measures) or "nothing"
        not_run.setdefault("FID", f"measured with {instead}; FID needs --inception FILE")


def _check_anything(plans: Sequence[object], not_run: dict[str, str]) -> None:
    if not any(plans):
        raise UserError(
            "nothing can be measured with what is here",
            problems=[f"{what}: {why}" for what, why in not_run.items()],
            hint="spade score RENDERS --real PHOTOS --labels MASKS --segmenter FILE measures everything",
        )


def _warn(plan: ScorePlan, report: Report) -> None:
    """Warn of what a reader of the numbers should know first."""
    for p in plan.protocol.distances:
        few = min(n for n in (plan.protocol.render_count, p.real_count) if n)
        if few <= p.dimensions:
            report.warn(
                f"{few} pictures are few for {p.dimensions} dimensions: "
                "the distance depends on the count; compare it at equal counts only, and with its floor"
            )
        if plan.renders and p.paired is not None and p.paired < len({r.key for r in plan.renders}):
            report.warn(f"only {p.paired} of the renders' masks are named as a photograph in {p.real}")
        if p.extractor_was_training_loss == "yes":
            report.warn(f"{p.extractor} was also a training loss of these weights, which flatters them")
