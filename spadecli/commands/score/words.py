"""Scores and their protocol in words, for the terminal and the page."""

from __future__ import annotations

from dataclasses import astuple

from ...core.sizes import format_size
from ...metrics.appearance import octave_names
from .distances import Distances
from .look import Looks
from .protocol import DistanceProtocol, DiversityProtocol, Protocol, SegmentationProtocol
from .sample_diversity import Diversity

Row = tuple[str, str, str]  # name, the renders' value, the floor's


def number(value: float) -> str:
    """Five digits."""
    return f"{value:.5g}"


def percent(value: float) -> str:
    """A fraction as "12.3%"."""
    return f"{value:.1%}"


def with_deviation(mean: float, deviation: float, several: bool = True) -> str:
    """ "12.345 ± 0.67", or the mean alone."""
    if not several:
        return number(mean)
    return f"{mean:.5g} ± {deviation:.0f}" if 10 <= deviation < 1e5 else f"{mean:.5g} ± {deviation:.2g}"


def distance_rows(d: Distances) -> list[Row]:
    """Every number of one network beside its floor."""
    floor = d.floor
    several = floor is not None and floor.draws > 1
    rows = [
        (
            d.frechet_name,
            number(d.frechet) if d.frechet is not None else "",
            with_deviation(floor.frechet_mean, floor.frechet_deviation, several) if floor else "",
        )
    ]
    kernel_floor = ""
    if floor and floor.kernel_mean is not None and floor.kernel_deviation is not None:
        kernel_floor = with_deviation(floor.kernel_mean, floor.kernel_deviation, several)
    if d.kernel or kernel_floor:
        own = with_deviation(d.kernel.mean, d.kernel.deviation, d.kernel.subsets > 1) if d.kernel else ""
        rows.append((d.kernel_name, own, kernel_floor))
    names = ("precision", "recall", "density", "coverage")
    own_values = [f"{v:.3f}" for v in astuple(d.prdc)] if d.prdc else [""] * 4
    floor_values = [f"{v:.3f}" for v in astuple(floor.prdc_mean)] if floor and floor.prdc_mean else [""] * 4
    if d.prdc or any(floor_values):
        rows += list(zip(names, own_values, floor_values, strict=True))
    return rows


def look_rows(looks: Looks) -> list[Row]:
    """The figures of renders and photographs side by side; energies also as shares of the photographs'."""
    own, real = looks.renders, looks.photos
    rows = []
    for name, a, b in zip(octave_names(), own.energy, real.energy, strict=True):
        share = f" ({a / b:.0%})" if b else ""
        rows.append((f"energy, {name}", f"{a:.2f}{share}", f"{b:.2f}"))
    return [
        *rows,
        ("contrast", f"{own.contrast:.1f}", f"{real.contrast:.1f}"),
        ("lightness", f"{own.dark:.0f} to {own.bright:.0f}", f"{real.dark:.0f} to {real.bright:.0f}"),
        ("spread of mean colours", f"{own.colour_spread:.1f}", f"{real.colour_spread:.1f}"),
    ]


def diversity_row(d: Diversity) -> tuple[str, str]:
    """The name, and the mean with its deviation over masks."""
    return d.name, f"{with_deviation(d.mean, d.deviation)} over {d.pairs} pairs of samples of {len(d.masks)} masks"


def protocol_words(p: Protocol) -> list[tuple[str, str]]:
    """The protocol as (name, value)."""
    words = [("protocol", p.preset or "spade's own"), ("set", p.split)]
    if p.renders:
        words += [
            ("renders", f"{p.render_count} from {p.renders} ({_sizes(p.render_sizes)}), samples: {p.samples}"),
            ("weights", f"{p.weights or 'unknown'} {p.weights_sha256}".rstrip()),
        ]
    for d in p.distances:
        words += _distance(d, p.seed)
    if p.segmentation:
        words += _segmentation(p.segmentation)
    if p.look:
        beside = f"{p.look.real_count} photographs from {p.look.real}"
        words.append(("sharpness, light and colours", f"beside {beside} at {format_size(p.look.size)}"))
    for name, diversity in (("diversity", p.diversity), ("LPIPS", p.lpips)):
        if diversity:
            words.append((name, _diversity(diversity)))
    if p.style:
        words.append(("style", f"masks: {p.style.masks}; photographs: {p.style.photos or 'none'}"))
    return words


def _distance(d: DistanceProtocol, seed: int) -> list[tuple[str, str]]:
    paired = "" if d.paired is None else f", {d.paired} paired"
    sizes = f" ({_sizes(d.real_sizes)})" if d.real_sizes else " (statistics)"
    words = [
        ("real", f"{d.real_count} from {d.real}{sizes}{paired}"),
        ("compared at", f"{format_size(d.size)}, {d.resize}"),
        ("extractor", f"{d.extractor}, {d.dimensions} dimensions, sha256 {d.extractor_sha256}"),
        ("extractor was also a training loss", d.extractor_was_training_loss),
        ("neighbours", d.neighbours),
    ]
    if d.floor_draws:
        words.append(("floor", f"{d.floor_draws} draws of {d.floor_count} from {d.floor_from}, seed {seed}"))
    return words


def _segmentation(s: SegmentationProtocol) -> list[tuple[str, str]]:
    ceiling = [("ceiling", f"the same segmenter on {s.photos} photographs of these masks")] if s.photos else []
    return [
        ("segmenter", f"{s.segmenter}, sha256 {s.segmenter_sha256}"),
        ("segmenter on real photographs", s.trust),
        ("masks", f"{s.mask_count} from {s.masks}; label space {s.label_space}"),
        ("label resize", s.label_resize),
        ("ignore", s.ignore),
        ("absent classes", s.absent),
        *ceiling,
    ]


def _diversity(d: DiversityProtocol) -> str:
    return (
        f"{d.network}; {d.samples} samples of {d.masks} masks, {d.pairs} pairs; {d.input}; size: {d.size}; "
        f"mean {d.mean}; weights {d.weights}, sha256 {d.weights_sha256}"
    )


def _sizes(sizes: dict[str, int]) -> str:
    return ", ".join(f"{n} of {size}" for size, n in sizes.items())
