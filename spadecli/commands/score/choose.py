"""Which segmenter sees the renders, and which networks measure distances: those requested, else those that fit."""

from __future__ import annotations

from pathlib import Path

from ...core.cache import cache_dir
from ...core.errors import BackendUnavailable, UserError
from ...core.labelspace import LabelSpace
from ...core.recipe_files import shipped_dir
from ...core.report import Report
from ...data.folder import Item
from ...metrics.extractors import FeatureNetwork, open_extractor
from ...segmenter.feature_network import SegmenterFeatures
from ...segmenter.interface import match_channels
from ...segmenter.predictions import FolderPredictions
from ...segmenter.registry import AnySegmenter, open_segmenter
from ...store import h5
from ...weights.file import read_card
from .inception import find_inception
from .options import ScoreOptions, label_recipe
from .source_masks import Masks, manifest_labels

SHIPPED_SEGMENTER = "facades_segmenter.safetensors"
SHIPPED_REAL = "facades.real.h5"
DISTANCES = "distances to photographs"
MIOU = "mIoU, pixel accuracy"
OWN_FEATURES = Path("segmenter")  # in place of an extractor's file


def choose_segmenter(
    options: ScoreOptions, masks: Masks | None, weights: Path | None, not_run: dict[str, str]
) -> tuple[AnySegmenter | None, LabelSpace | None]:
    """The segmenter that was asked for, else the shipped one if it fits; and the masks' label space."""
    if options.segmenter:
        if masks is None and options.renders is not None:
            raise UserError(
                f"{options.renders}: nothing says which masks these renders were made from",
                hint="give them with --labels MASKS",
            )
        labels = _label_space(options, weights)
        segmenter = open_segmenter(options.segmenter, options.device, options.mapping, labels)
        return segmenter, labels or segmenter.labels
    if options.renders is None:
        return None, None
    give = "give one with --segmenter (weights, an ONNX file, a model folder, predicted label maps)"
    if masks is None:
        not_run[MIOU] = "nothing says which masks these renders were made from; give them with --labels MASKS"
        return None, None
    shipped = _shipped(SHIPPED_SEGMENTER)
    if shipped is None:
        not_run[MIOU] = f"no segmenter is shipped with this spade; {give}"
        return None, None
    segmenter = open_segmenter(str(shipped), options.device)
    labels = _label_space(options, weights) or segmenter.labels
    try:
        match_channels(segmenter, labels)
    except UserError:
        not_run[MIOU] = f"the shipped segmenter knows {segmenter.labels.name}, these masks are {labels.name}; {give}"
        return None, None
    return segmenter, labels


def _shipped(name: str) -> Path | None:
    """A file among the shipped weights, or None."""
    try:
        path = shipped_dir("weights") / name
    except UserError:
        return None
    return path if path.is_file() else None


def _label_space(options: ScoreOptions, weights: Path | None) -> LabelSpace | None:
    """The masks' label space: the recipe's, the weights', the manifest's; None where nothing says."""
    if recipe := label_recipe(options):
        return recipe.recipe.labels
    if weights is not None and weights.is_file():
        return read_card(weights).labels
    return manifest_labels(options.renders) if options.renders else None


def choose_networks(
    options: ScoreOptions,
    segmenter: AnySegmenter | None,
    renders: list[Item],
    not_run: dict[str, str],
    fetch: bool,
    report: Report,
) -> list[tuple[FeatureNetwork, Path]]:
    """The networks to measure distances with, each with its real set; without any, ``not_run`` says why."""
    cache = options.cache or cache_dir()
    if options.extractor == OWN_FEATURES:
        if segmenter is None:
            raise UserError(f"--extractor {OWN_FEATURES}: there is no segmenter", hint="give one with --segmenter")
        if isinstance(segmenter, FolderPredictions):
            hint = "give another --extractor"
            raise UserError(f"{segmenter.folder}: predicted label maps have no features for a distance", hint=hint)
        own = SegmenterFeatures.of(segmenter)
        return [(own, options.real)] if options.real else _shipped_statistics(segmenter, renders, not_run, report)
    if options.real is not None and (given := options.extractor or options.inception):
        return [(open_extractor(given, inception=given == options.inception, device=options.device), options.real)]
    if options.extractor or options.inception:
        raise UserError("--extractor and --inception measure distances to photographs", hint="give them with --real")
    if options.real is None:
        return _shipped_statistics(segmenter, renders, not_run, report)
    made_with = _made_with(options.real)
    if segmenter and not isinstance(segmenter, FolderPredictions) and made_with == segmenter.sha256:
        return [(SegmenterFeatures.of(segmenter), options.real)]
    try:
        inception = find_inception(cache, fetch, report)
    except BackendUnavailable as e:
        fallback = _own_features(segmenter) if segmenter else None
        if fallback is None:
            raise
        not_run["FID"] = f"{e.message.removeprefix('no feature extractor: ')}; {e.hint}"
        return [(fallback, options.real)]
    return [(open_extractor(inception, inception=True, device=options.device), options.real)]


def _made_with(real: Path) -> str:
    """SHA-256 of the network of saved statistics, "" for a folder."""
    if not real.is_file():
        return ""
    with h5.open_read(real, "features") as f:
        return str(h5.config_of(f).get("extractor_sha256", ""))


def _own_features(segmenter: AnySegmenter) -> SegmenterFeatures | None:
    if isinstance(segmenter, FolderPredictions):
        return None
    try:
        return SegmenterFeatures.of(segmenter)
    except UserError:  # its network has none to give
        return None


def _shipped_statistics(
    segmenter: AnySegmenter | None, renders: list[Item], not_run: dict[str, str], report: Report
) -> list[tuple[FeatureNetwork, Path]]:
    """Without photographs: the segmenter's own features against the shipped statistics, if they belong together."""
    statistics = _shipped(SHIPPED_REAL)
    own = _own_features(segmenter) if segmenter else None
    if own is None or statistics is None or _made_with(statistics) != own.sha256:
        not_run[DISTANCES] = "no photographs to compare with; give them with --real PHOTOS"
        return []
    if len(renders) < 2:
        not_run[DISTANCES] = f"a distance between sets needs two pictures or more (found {len(renders)})"
        return []
    report.warn(
        f"{statistics.name} holds photographs of other masks than the renders show: the distance also measures how "
        "different the masks are; --real PHOTOS compares with photographs of your own"
    )
    return [(own, statistics)]
