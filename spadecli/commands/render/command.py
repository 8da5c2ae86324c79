"""``spade render``: masks in, photographs out."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...backends import open_backend
from ...backends.base import Form
from ...core.errors import PartialFailure, UserError
from ...core.recipe_files import resolve_weights
from ...core.report import Report, Silent, count
from ...store import manifest
from ...store.atomic import remove_parts
from ...store.h5 import file_sha256
from .archive import write_archive
from .gallery import write_gallery
from .latents import Style
from .options import RenderOptions, Source, edge_source
from .pipeline import Outcome, advice, check_masks, failure_of, render_masks
from .targets import RenderPlan, make_plan
from .write import ImageWriter

__all__ = ["RenderOptions", "RenderResult", "Source", "render", "render_with"]

MAX_WORKERS = 8


@dataclass(frozen=True)
class RenderResult:
    """Result of a render.

    images: rendered now (or to be rendered, in a dry run); skipped: there already; seconds: of rendering alone.
    failures: what the masks raised that were left out.
    """

    out: Path
    weights: Path
    masks: int
    images: int
    skipped: int
    seconds: float
    manifest: Path
    h5: Path | None
    gallery: Path | None
    failures: tuple[UserError, ...]
    dry_run: bool

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds if self.seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        """Plain values, for programs."""
        return {
            "out": str(self.out),
            "weights": str(self.weights),
            "masks": self.masks,
            "images": self.images,
            "skipped": self.skipped,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.rate, 3),
            "manifest": str(self.manifest),
            "h5": str(self.h5) if self.h5 else None,
            "gallery": str(self.gallery) if self.gallery else None,
            "problems": [e.line for e in self.failures],
            "dry_run": self.dry_run,
        }

    def lines(self) -> list[str]:
        """A summary for people."""
        if self.dry_run:
            there = f" ({self.skipped:,} there)" if self.skipped else ""
            return [f"would render {count(self.images, 'image')} of {count(self.masks, 'mask')} to {self.out}{there}"]
        there = f", {self.skipped:,} there already" if self.skipped else ""
        rate = f" in {self.seconds:.1f} s ({self.rate:.1f} images/s)" if self.images else ""
        lines = [f"{count(self.images, 'image')} of {count(self.masks, 'mask')}{rate}{there}: {self.out}"]
        if self.gallery:
            lines.append(f"gallery: {self.gallery}")
        return lines

    def raise_for_problems(self) -> None:
        """Raise PartialFailure where masks were left out."""
        if self.failures:
            raise PartialFailure(
                f"{len(self.failures)} of {count(self.masks, 'mask')} were left out",
                problems=[e.line for e in self.failures],
                hint=f"{advice(self.failures)}; then run the same command again: what is there is skipped",
            )


def render(options: RenderOptions, report: Report | None = None) -> RenderResult:
    """Render every mask with the weights that the options name. See :func:`render_with`."""
    report = report or Silent()
    weights = resolve_weights(options.weights)
    if options.engine == "auto" and options.tile is not None:
        raise UserError("--engine auto and --tile exclude each other: an engine has one image size")
    runs = ""
    if options.engine == "auto":
        from .engine import PRECISION, cached_engine, planned_engine

        planned = planned_engine(weights, options.size, options.device)
        if options.dry_run:  # the weights are enough to plan with
            is_built = "is there" if planned.is_there(report) else "would be built first"
            runs = f"{planned.runtime} {planned.version} {PRECISION}; its engine {planned.path} {is_built}"
        else:
            weights = cached_engine(planned, report)
    form: Form = "plain" if options.plain else "auto"
    with ThreadPoolExecutor(1, "hash") as thread:
        file_hash = thread.submit(file_sha256, weights)  # large files take as long to hash as to open
        with open_backend(
            weights, options.device, form=form, precision=options.precision, tile=options.tile
        ) as backend:
            report.note(f"weights: {weights} ({backend.card.name}), {runs or f'{backend.name} on {backend.device}'}")
            sha256 = backend.weights_sha256 or file_hash.result()  # a converted file names the weights it was made from
            return render_with(Source(backend, weights, sha256), options, report)


def render_with(source: Source, options: RenderOptions, report: Report, styles: tuple[Style, ...] = ()) -> RenderResult:
    """Render every mask with an open backend, in each style if there are any; what is there already is skipped.

    Writes the images, manifest.jsonl, renders.h5 and index.html in ``options.out``. Nothing is written before
    every mask has been read once (unless skip_bad), and nothing half-written ever has its final name. May be
    interrupted at any time; the same call resumes.
    Raises UserError that lists all problems. Masks that turn out bad later are in the result's ``failures``.
    """
    num_workers = options.workers or min(MAX_WORKERS, os.cpu_count() or 1)
    manifest_path = options.out / manifest.NAME
    plan = make_plan(options, source, manifest.read_manifest(manifest_path), styles or (None,))
    if edge_source(options, source.backend.card) == "components":
        report.warn(
            "no instance maps: edges are taken from the connected components of each mask; "
            "--instances DIR gives instance maps, --no-edges feeds none"
        )
    outcome = Outcome(images=len(plan.targets) * plan.images_per_mask)
    if not options.skip_bad:
        with report.progress("checking", len(plan.targets)) as task:
            outcome = check_masks(plan, num_workers, task)
        _note_rounded(outcome, plan, report)
    h5 = gallery = None
    begun = time.perf_counter()
    if not options.dry_run:
        with manifest.ManifestWriter(manifest_path, plan.journal, plan.restart) as journal:
            outcome = _render(plan, journal, num_workers, report)
            seconds = time.perf_counter() - begun
            if options.skip_bad:
                _note_rounded(outcome, plan, report)
            rows = _rows_on_disk(journal.journal, options.out)
            h5 = write_archive(options.out, journal.journal, rows, options.pixels_in_h5, num_workers)
            gallery = write_gallery(options.out, journal.journal, rows) if options.gallery else None
    return RenderResult(
        out=options.out,
        weights=source.path,
        masks=len(plan.targets),
        images=outcome.images,
        skipped=outcome.skipped,
        seconds=0.0 if options.dry_run else seconds,
        manifest=manifest_path,
        h5=h5,
        gallery=gallery,
        failures=tuple(outcome.failures),
        dry_run=options.dry_run,
    )


def _render(plan: RenderPlan, journal: manifest.ManifestWriter, num_workers: int, report: Report) -> Outcome:
    remove_parts(plan.options.out)
    total = len(plan.targets) * plan.images_per_mask
    with (
        report.progress("rendering", total) as task,
        ImageWriter(plan, journal, num_workers) as writer,
    ):
        outcome = render_masks(plan, writer, num_workers, task)
    if len(outcome.failures) == len(plan.targets):
        raise failure_of(plan, outcome.failures)
    return outcome


def _note_rounded(outcome: Outcome, plan: RenderPlan, report: Report) -> None:
    if plan.options.size == "native" and outcome.rounded:
        stride = plan.source.backend.card.architecture.stride
        report.note(f"native size: {outcome.rounded} of {len(plan.targets)} masks rounded to multiples of {stride}")


def _rows_on_disk(journal: manifest.Journal, out: Path) -> list[manifest.Row]:
    """The image rows whose files are still there, by mask and sample."""
    rows = (row for row in journal.images.values() if (out / row["file"]).exists())
    return sorted(rows, key=lambda row: (row["mask"], row["sample"], row["file"]))
