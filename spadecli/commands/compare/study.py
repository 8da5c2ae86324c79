"""A user study on one page: pairs of renders, blind and in random order, as in the paper (section 4, AMT).

The page holds the pictures and a study number, not which side is whose: that is in a key file beside it, which the
person who tallies keeps. Both pictures of a pair are brought to one size and encoded alike, so that neither name,
size nor compression gives a side away.
"""

from __future__ import annotations

import base64
import io
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...core.errors import UserError
from ...data.files import read_image
from ...data.folder import Item
from ...data.masks import read_photo, resize_photo
from ...store.atomic import write_text
from ...store.manifest import NAME as MANIFEST_NAME
from ...store.manifest import read_manifest
from ..score.sets import renders_in

KEY_SUFFIX = ".key.json"
MAX_SIDE = 512  # pixels of a shown picture's longer side
KEY_FORMAT = "spade-compare-key"


@dataclass(frozen=True)
class CompareOptions:
    """first, second: folders of renders of the same masks. out: the page. max_pairs: drawn at random beyond it."""

    first: Path
    second: Path
    out: Path = Path("compare.html")
    max_pairs: int = 100


@dataclass(frozen=True)
class CompareResult:
    """The page for the voters, and the key that stays with whoever tallies."""

    page: Path
    key: Path
    pairs: int
    left_out: int

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"page": str(self.page), "key": str(self.key), "pairs": self.pairs, "left_out": self.left_out}


def write_comparison(options: CompareOptions) -> CompareResult:
    """Write the page and its key; order and sides come from the system's randomness, never from a seed.

    Raises UserError where the folders are one, share no mask, hold the same pictures, or a key is there already.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    key_path = options.out.with_name(options.out.stem + KEY_SUFFIX)
    if key_path.exists():
        raise UserError(
            f"{key_path}: holds the key of an earlier comparison, without which its votes mean nothing",
            hint="give another name with -o, or delete page and key together",
        )
    pairs = find_pairs(options.first, options.second)
    random = np.random.default_rng(secrets.randbits(128))
    order = [pairs[i] for i in random.permutation(len(pairs))[: options.max_pairs]]
    masks = _colored_masks(options.first)
    study = secrets.token_hex(8)
    shown, key = [], []
    for number, (a, b) in enumerate(order):
        swapped = bool(random.integers(2))
        pictures = _alike(read_photo(a.path), read_photo(b.path))
        left, right = pictures[::-1] if swapped else pictures
        mask = masks.get(a.key)
        shown.append(
            {"left": _jpeg(left), "right": _jpeg(right), "mask": _mask_picture(mask) if mask else ""},
        )
        key.append({"pair": number, "mask": a.key, "left": "second" if swapped else "first"})
    environment = Environment(
        loader=PackageLoader(__package__, ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("study.html.jinja").render(study=study, pairs=shown)
    words = {
        "format": KEY_FORMAT,
        "study": study,
        "first": str(options.first),
        "second": str(options.second),
        "pairs": key,
    }
    write_text(key_path, json.dumps(words, indent=1, ensure_ascii=False) + "\n")
    write_text(options.out, page)
    return CompareResult(options.out, key_path, len(order), len(pairs) - len(order))


def find_pairs(first: Path, second: Path) -> list[tuple[Item, Item]]:
    """Renders of one mask from either folder, the first sample of each."""
    if first.resolve() == second.resolve():
        raise UserError(f"{first}: compared with itself", hint="spade score --compare A B takes two folders")
    ours, theirs = ({p.key: p for p in renders_in(folder, "first")} for folder in (first, second))
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        raise UserError(
            f"{first} and {second}: no render of either is of a mask of the other",
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


def _alike(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Both at the smaller one's height and the first one's aspect, no side past MAX_SIDE."""
    height, width = min((a.shape[:2], b.shape[:2]), key=lambda s: s[0] * s[1])
    scale = min(1.0, MAX_SIDE / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    first, second = (p if p.shape[:2] == size else resize_photo(p, size) for p in (a, b))
    return first, second


def _jpeg(pixels: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _mask_picture(path: Path) -> str:
    pixels = read_image(path, lambda image: np.array(image.convert("RGB")))
    image = Image.fromarray(pixels)
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def read_key(path: Path) -> dict[str, Any]:
    """The key of a comparison. Raises UserError where the file is none."""
    found = _read_json(path)
    if not isinstance(found, dict) or found.get("format") != KEY_FORMAT:
        raise UserError(f"{path}: not the key of a comparison", hint="it is written beside the page of --compare")
    return found


def read_votes(paths: Sequence[Path], key: dict[str, Any]) -> dict[tuple[str, int], str]:
    """Choices "left" or "right" by (ballot, pair); a ballot given twice counts once.

    Raises UserError that lists every file that is no ballot, of another study, or names pairs that are not in it.
    """
    known = {int(row["pair"]) for row in key["pairs"]}
    votes: dict[tuple[str, int], str] = {}
    problems = []
    for path in paths:
        try:
            ballot = _read_json(path)
            if not isinstance(ballot, dict) or ballot.get("format") != "spade-compare-votes":
                raise ValueError("not a file of votes")
            if ballot["study"] != key["study"]:
                raise ValueError(f"votes of study {ballot['study']}, the key is of study {key['study']}")
            for vote in ballot["votes"]:
                if vote["pair"] not in known or vote["choice"] not in ("left", "right"):
                    raise ValueError(f"pair {vote['pair']!r}, choice {vote['choice']!r}: not in this study")
                votes[str(ballot["ballot"]), int(vote["pair"])] = vote["choice"]
        except UserError as e:
            problems.append(e.line)
        except (ValueError, KeyError, TypeError) as e:
            problems.append(f"{path}: {e if isinstance(e, ValueError) else f'field {e} is missing or wrong'}")
    if problems:
        raise UserError(f"{len(problems)} of {len(paths)} files cannot be tallied", problems=problems)
    return votes


def _read_json(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as e:
        raise UserError(f"{path}: not JSON ({e})") from e
