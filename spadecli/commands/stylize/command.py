"""``spade stylize``: every mask in the style of one or more photos (section 3.4)."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...backends import open_backend
from ...backends.base import Form
from ...core.errors import UserError, refuse
from ...core.recipe_files import resolve_weights
from ...core.report import Report, Silent, count
from ...data.folder import scan
from ...store.h5 import file_sha256
from ...store.manifest import Row, read_manifest
from ...store.styles_file import StyleEntry
from ..render.command import MAX_WORKERS, RenderResult, render_with
from ..render.options import RenderOptions, Source
from ..styles.encode import Photo, check_encoder, encode_photos
from .columns import Column, StyleSettings, make_columns
from .consistency import StyleConsistency, measure_consistency
from .pictures import check_sheet, write_references, write_sheet
from .references import Mix, Reference, default_reference, parse_mix, resolve, unique

OUT = Path("stylized")


@dataclass(frozen=True)
class StylizeOptions:
    """What ``spade stylize`` is asked to do: z = strength·mu + noise·exp(logvar/2)·eps, eps from the seed rule.

    render: masks, weights, output folder and all other options of ``spade render``.
    refs: photos, folders of photos, styles.h5 (all of it) or styles.h5#NAME; without any and without mixes,
        ./photo.jpg. Each is a style, and a folder of the output.
    mixes: "a.jpg:0.3,b.jpg:0.7", weights relative to their sum. interpolate: styles between each of ``refs`` and
        the next. Both act on mu, and on logvar linearly. spherical: mixes of two and interpolations turn mu.
    noise: None for 0, or 1 with several samples.
    sheet: a picture (.jpg, .jpeg or .png) of the masks by the styles, the references on top; or None.
    """

    render: RenderOptions = field(default_factory=lambda: RenderOptions(out=OUT))
    refs: tuple[str, ...] = ()
    mixes: tuple[str, ...] = ()
    interpolate: int = 0
    spherical: bool = False
    strength: float = 1.0
    noise: float | None = None
    sheet: Path | None = None

    @property
    def settings(self) -> StyleSettings:
        """Settings of every style, with the default of ``noise`` resolved."""
        noise = self.noise if self.noise is not None else float(self.render.samples > 1)
        return StyleSettings(float(self.strength), float(noise), self.spherical, self.interpolate)


@dataclass(frozen=True)
class StylizeResult:
    """Result of the render, names of the styles in order, and how well images agree with their style.

    encoded: photos that were encoded now. consistency: None with fewer than two styles, and in a dry run.
    """

    render: RenderResult
    styles: tuple[str, ...]
    encoded: int
    consistency: StyleConsistency | None
    sheet: Path | None

    def as_json(self) -> dict[str, Any]:
        """Plain values, for programs."""
        return {
            **self.render.as_json(),
            "styles": list(self.styles),
            "encoded": self.encoded,
            "consistency": self.consistency.as_json() if self.consistency else None,
            "sheet": str(self.sheet) if self.sheet else None,
        }

    def lines(self) -> list[str]:
        """A summary for people."""
        first, *more = self.render.lines()
        lines = [first.replace(" of ", f" in {count(len(self.styles), 'style')} of ", 1), *more]
        if self.consistency:
            lines += self.consistency.lines()
        if self.sheet:
            lines.append(f"sheet: {self.sheet}")
        return lines


def stylize(options: StylizeOptions, report: Report | None = None) -> StylizeResult:
    """Encode the references, render every mask in each style; what is there already is skipped, as in ``render``.

    Writes to the output folder what render does: images in a folder for each style, manifest.jsonl, renders.h5,
    index.html, and the references' pictures in _styles.
    Raises UserError that lists all problems of a kind; nothing is written then.
    """
    report = report or Silent()
    _check(options)
    weights = resolve_weights(options.render.weights)
    refs = options.refs or (() if options.mixes else (default_reference(),))
    form: Form = "plain" if options.render.plain else "auto"
    with open_backend(
        weights, options.render.device, form=form, precision=options.render.precision, tile=options.render.tile
    ) as backend:
        source = Source(backend, weights, file_sha256(weights))
        report.note(f"weights: {weights} ({backend.card.name}), {backend.name} on {backend.device}")
        references = unique(resolve(refs, source.sha256))
        mixes = [parse_mix(text, source.sha256) for text in options.mixes]
        _check_number(options, references, mixes)
        everything = [*references, *(r for m in mixes for r, _ in m.parts)]
        entries, encoded = _entries(source, everything, options.render.workers, report)
        columns = make_columns(references, mixes, entries, options.settings)
        if options.sheet is not None:
            check_sheet(options.sheet, _num_masks(options.render.masks), len(columns))
        if options.render.gallery and not options.render.dry_run:
            report.note(f"{count(len(columns), 'style')}: {', '.join(c.style.name for c in columns)}", level=1)
        styles = tuple(column.style for column in columns)
        result = render_with(source, options.render, report, styles)
        consistency = None
        if not options.render.dry_run:
            rows = _complete_rows(result.manifest, columns)
            if options.render.gallery:
                write_references(options.render.out, columns)
            photos = _photos(columns, entries)
            files = [files for _, files in rows]
            consistency = measure_consistency(backend, options.render.out, styles, photos, files) if files else None
            if options.sheet is not None:
                out = options.render.out
                write_sheet(options.sheet, columns, [(out / mask, [out / f for f in files]) for mask, files in rows])
    sheet = None if options.render.dry_run else options.sheet
    return StylizeResult(result, tuple(style.name for style in styles), encoded, consistency, sheet)


def _check(options: StylizeOptions) -> None:
    """Raise one UserError that lists every wrong option."""
    problems = []
    if not math.isfinite(options.strength):
        problems.append(f"--strength {options.strength}: expected a finite number")
    if options.noise is not None and not (math.isfinite(options.noise) and options.noise >= 0):
        problems.append(f"--noise {options.noise}: expected 0 or more")
    if options.noise == 0 and options.render.samples > 1:
        problems.append(
            f"--samples {options.render.samples} with --noise 0: every sample of a mask would be the same image; "
            "leave one of them out"
        )
    if options.interpolate < 0:
        problems.append(f"--interpolate {options.interpolate}: expected 1 or more")
    if options.spherical and not (options.interpolate or options.mixes):
        problems.append("--spherical: says how styles are combined; give --mix or --interpolate too")
    if options.sheet is not None and not options.render.gallery:
        problems.append("--sheet shows the coloured masks of the gallery; leave --no-gallery out")
    refuse(problems)


def _check_number(options: StylizeOptions, references: Sequence[Reference], mixes: Sequence[Mix]) -> None:
    if options.interpolate and len(references) < 2:
        raise UserError(
            f"--interpolate {options.interpolate}: {count(len(references), 'reference')}; expected 2 or more",
            hint="give --ref once for each, in order",
        )
    if options.spherical and (wrong := [m.text for m in mixes if len(m.parts) != 2]):
        raise UserError(f"--spherical turns from one style to another; --mix {wrong[0]} is of more than two")


def _entries(
    source: Source, references: Sequence[Reference], num_workers: int | None, report: Report
) -> tuple[dict[Reference, StyleEntry], int]:
    """The style of each reference, and how many photos were encoded for it."""
    entries = {r: r.entry for r in references if r.entry is not None}
    photos = [r for r in references if r.photo is not None]
    if not photos:
        return entries, 0
    check_encoder(source.backend, source.path)
    num_workers = num_workers if num_workers and num_workers > 0 else min(MAX_WORKERS, os.cpu_count() or 1)
    named = [Photo(r.name, r.photo) for r in photos if r.photo is not None]
    found, encoded = encode_photos(source.backend, named, {}, num_workers, report)
    return entries | dict(zip(photos, found, strict=True)), encoded


def _num_masks(masks: Path) -> int:
    return len(scan(masks)) if masks.exists() else 0  # what is wrong with it the render says


def _photos(columns: Sequence[Column], entries: dict[Reference, StyleEntry]) -> list[Path | None]:
    """The photo of each column; None for mixes, and for entries of styles files."""
    photo_of = {entries[r].photo_sha256: r.photo for r in entries if r.photo is not None}
    parts = [column.style.parts for column in columns]
    return [photo_of.get(p[0][0]) if len(p) == 1 else None for p in parts]


def _complete_rows(manifest: Path, columns: Sequence[Column]) -> list[tuple[str, list[str]]]:
    """Coloured mask and first sample in each style, of the masks that were rendered in all of them."""
    journal = read_manifest(manifest)
    ids = [column.style.id for column in columns]
    by_mask: dict[str, dict[str, Row]] = {}
    for row in journal.images.values():
        if row["sample"] == 0 and row.get("style") in ids and (manifest.parent / row["file"]).exists():
            by_mask.setdefault(row["mask"], {})[row["style"]] = row
    full = {mask: found for mask, found in sorted(by_mask.items()) if len(found) == len(ids)}
    return [(journal.masks[mask]["colored"], [found[i]["file"] for i in ids]) for mask, found in full.items()]
