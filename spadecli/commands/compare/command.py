"""``spade compare``: a user study on one page, pairs of renders in random order, as in the paper (section 4, AMT).

The page holds the pictures and a study number, but not which side is whose: that is in a key file beside it, which
stays with the person who counts the votes.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import UserError
from ...data.folder import Item
from ...data.masks import read_photo
from ...store.atomic import write_text
from ...store.manifest import NAME as MANIFEST_NAME
from ...store.manifest import read_manifest
from ..score.sets import renders_in
from .pairs import equalize, jpeg_url, mask_url
from .votes import KEY_FORMAT, KEY_SUFFIX, OUT

__all__ = ["OUT", "PAIRS", "CompareOptions", "CompareResult", "compare", "find_pairs"]

PAIRS = 100
PAGE = "compare.html"
KEY = Path(PAGE).stem + KEY_SUFFIX


@dataclass(frozen=True)
class CompareOptions:
    """What ``spade compare`` is asked to do.

    first, second: folders of renders of the same masks. out: folder of the page and its key.
    pairs: at most this many, drawn at random. seed: fixes which pairs, their order and sides; None draws them from
        the system's randomness. dry_run: check the folders, write nothing.
    """

    first: Path
    second: Path
    out: Path = OUT
    pairs: int = PAIRS
    seed: int | None = None
    dry_run: bool = False


@dataclass(frozen=True)
class CompareResult:
    """The page for the voters, and the key for the person who counts. left_out: pairs beyond ``options.pairs``."""

    page: Path
    key: Path
    pairs: int
    left_out: int
    dry_run: bool

    def as_json(self) -> dict[str, Any]:
        """Plain values, for programs."""
        files = {"page": str(self.page), "key": str(self.key)}
        return {**files, "pairs": self.pairs, "left_out": self.left_out, "dry_run": self.dry_run}

    def lines(self) -> list[str]:
        """A summary for people."""
        left_out = f", {self.left_out} left out (--pairs)" if self.left_out else ""
        if self.dry_run:
            return [f"would write {self.page}: {self.pairs} pairs{left_out}"]
        return [
            f"{self.pairs} pairs{left_out}",
            f"page, for everyone who votes: {self.page}",
            f"key, not for them: {self.key}",
            f"then: spade compare --tally votes-*.json --key {self.key}",
        ]


def compare(options: CompareOptions) -> CompareResult:
    """Write the page and its key.

    Raises UserError where the folders are the same, share no mask or hold the same pictures, and where a key exists.
    """
    page_path, key_path = options.out / PAGE, options.out / KEY
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"{options.out}: not a folder", hint="give a folder with -o")
    if key_path.exists():
        raise UserError(
            f"{key_path}: holds the key of an earlier comparison, without which its votes mean nothing",
            hint="give another folder with -o, or delete page and key together",
        )
    pairs = find_pairs(options.first, options.second)
    shown = min(len(pairs), options.pairs)
    result = CompareResult(page_path, key_path, shown, len(pairs) - shown, options.dry_run)
    if options.dry_run:
        return result
    random = np.random.default_rng(secrets.randbits(128) if options.seed is None else options.seed)
    masks = _colored_masks(options.first)
    contents, sides = [], []
    for number, i in enumerate(random.permutation(len(pairs))[:shown]):
        first, second = pairs[i]
        swapped = bool(random.integers(2))
        pictures = equalize(read_photo(first.path), read_photo(second.path))
        left, right = pictures[::-1] if swapped else pictures
        mask = masks.get(first.key)
        contents.append({"left": jpeg_url(left), "right": jpeg_url(right), "mask": mask_url(mask) if mask else ""})
        sides.append({"pair": number, "mask": first.key, "left": "second" if swapped else "first"})
    # of the pictures too, so that one seed gives every study a number of its own
    study = hashlib.sha256(random.bytes(16) + json.dumps(contents).encode()).hexdigest()[:16]
    key = {
        "format": KEY_FORMAT,
        "study": study,
        "first": str(options.first),
        "second": str(options.second),
        "pairs": sides,
    }
    write_text(key_path, json.dumps(key, indent=1, ensure_ascii=False) + "\n")
    write_text(page_path, _page(study, contents))
    return result


def find_pairs(first: Path, second: Path) -> list[tuple[Item, Item]]:
    """Renders of the same mask from both folders, the first sample of each."""
    if first.resolve() == second.resolve():
        raise UserError(f"{first}: compared with itself", hint="spade compare A B takes two folders")
    ours, theirs = ({p.key: p for p in renders_in(folder, "first")} for folder in (first, second))
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        raise UserError(
            f"{first} and {second}: have no render of the same mask",
            problems=[f"{folder}: first {min(items)}" for folder, items in ((first, ours), (second, theirs))],
            hint="compare folders of renders of the same masks",
        )
    pairs = [(ours[key], theirs[key]) for key in shared]
    if all(a.path.read_bytes() == b.path.read_bytes() for a, b in pairs):
        raise UserError(f"{first} and {second}: hold the same pictures; there is nothing to compare")
    return pairs


def _colored_masks(folder: Path) -> dict[str, Path]:
    masks = read_manifest(folder / MANIFEST_NAME).masks
    return {key: path for key, row in masks.items() if (path := folder / row["colored"]).is_file()}


def _page(study: str, pairs: list[dict[str, str]]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(__package__, ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("study.html.jinja").render(study=study, pairs=pairs)
