"""``spade styles``: the style codes of photos, in one file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...backends import open_backend
from ...core.errors import UserError
from ...core.recipe_files import resolve_weights
from ...core.report import Report, Silent, count
from ...core.sizes import format_size
from ...store.h5 import file_sha256
from ...store.styles_file import StyleEntry, read_styles, write_styles
from .encode import Photo, check_encoder, encode_photos, photos_in

MAX_WORKERS = 8


@dataclass(frozen=True)
class StylesOptions:
    """What ``spade styles`` is asked to do.

    photos: a folder (searched in depth) or one photo. out: the styles file; photos whose content it knows already
        are not encoded again. weights: None for the shipped facades weights.
    overwrite: replace a file that other weights made.
    """

    photos: Path
    out: Path = Path("styles.h5")
    weights: Path | None = None
    device: str = "auto"
    workers: int | None = None
    overwrite: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class StylesResult:
    """How many styles the file holds, how many photos were encoded for it, and how many entries it lost."""

    out: Path
    weights: Path
    styles: int
    encoded: int
    dropped: int
    dry_run: bool

    def as_json(self) -> dict[str, Any]:
        """Plain values, for programs."""
        return {
            "out": str(self.out),
            "weights": str(self.weights),
            "styles": self.styles,
            "encoded": self.encoded,
            "reused": self.styles - self.encoded,
            "dropped": self.dropped,
            "dry_run": self.dry_run,
        }

    def lines(self) -> list[str]:
        """A summary for people."""
        verb = "would hold" if self.dry_run else "holds"
        dropped = f"; {self.dropped:,} of photos that are gone left out" if self.dropped else ""
        return [f"{self.out} {verb} {count(self.styles, 'style')}: {self.encoded:,} encoded now{dropped}"]


def styles(options: StylesOptions, report: Report | None = None) -> StylesResult:
    """Encode a folder of photos; the file then holds exactly these, under their names without suffix.

    Raises UserError that lists every photo that cannot be read; nothing is written then.
    """
    report = report or Silent()
    if options.workers is not None and options.workers < 1:
        raise UserError(f"--workers {options.workers}: expected 1 or more")
    weights = resolve_weights(options.weights)
    photos = [Photo(item.key, item.path) for item in photos_in(options.photos)]
    with open_backend(weights, options.device) as backend:
        report.note(f"weights: {weights} ({backend.card.name}), {backend.name} on {backend.device}")
        check_encoder(backend, weights)
        sha256 = file_sha256(weights)
        known = _known(options, weights, sha256)
        by_content = {entry.photo_sha256: entry for entry in known}
        workers = options.workers or min(MAX_WORKERS, os.cpu_count() or 1)
        entries, encoded = encode_photos(backend, photos, by_content, workers, report)
        arch = backend.card.architecture
        config = {"weights": weights.name, "card": backend.card.name, "size": format_size(arch.size)}
        if not options.dry_run and _rows(entries) != _rows(known):
            write_styles(options.out, entries, sha256, arch.z_dim, config)
    dropped = len({e.photo_sha256 for e in known} - {e.photo_sha256 for e in entries})
    return StylesResult(options.out, weights, len(entries), encoded, dropped, options.dry_run)


def _known(options: StylesOptions, weights: Path, sha256: str) -> tuple[StyleEntry, ...]:
    """The entries that can be reused. Raises UserError if the file holds no styles, or those of other weights."""
    if not options.out.exists():
        return ()
    found = read_styles(options.out)
    if found.weights_sha256 == sha256:
        return found.entries
    if not options.overwrite:
        raise UserError(
            f"{options.out}: holds styles of other weights (sha256 {found.weights_sha256[:12]}..., {weights} has "
            f"{sha256[:12]}...)",
            hint="give another file with -o, or replace it with --overwrite",
        )
    return ()


def _rows(entries: tuple[StyleEntry, ...] | list[StyleEntry]) -> list[tuple[str, str]]:
    return [(e.name, e.photo_sha256) for e in entries]
