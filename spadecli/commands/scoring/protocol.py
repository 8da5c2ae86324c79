"""What a score depends on besides the pictures, and what made the renders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import UserError
from ..core.recipe import shipped_dir
from ..core.sizes import Size, format_size
from ..model.weights import read_card
from ..store import h5
from .score_sets import weights_of


@dataclass(frozen=True)
class Protocol:
    """Everything that a distance depends on besides the pictures; numbers compare only where this is the same."""

    renders: str
    render_count: int
    samples: str
    weights: str
    weights_sha256: str
    real: str
    real_count: int
    paired: int
    split: str
    size: tuple[int, int]
    render_sizes: dict[str, int]
    real_sizes: dict[str, int]
    resize: str
    extractor: str
    extractor_sha256: str
    dimensions: int
    extractor_was_training_loss: str
    floor_from: str
    floor_count: int
    floor_draws: int
    seed: int


def size_counts(sizes: Mapping[Size, int]) -> dict[str, int]:
    """Counts of pictures by size, as "256x512"."""
    return {format_size(size): n for size, n in sorted(sizes.items())}


def find_weights(renders: Path | None, given: Path | None) -> tuple[Path | None, str, str]:
    """The weights file that made the renders, if it is at hand; its name and SHA-256, if they are known.

    ``given`` is what the user says it is; else the shipped weights are compared with what the manifest says.
    Raises UserError where the given file is not what the manifest says.
    """
    name, sha256 = weights_of(renders) if renders else ("", "")
    if given:
        found = h5.file_sha256(given) if given.is_file() else ""
        if found and sha256 and found != sha256:
            raise UserError(f"{given}: did not make these renders; {renders} is by {name}, {sha256}")
        return given, given.name, found
    for path in _shipped_weights() if sha256 else ():
        if path.name == name and h5.file_sha256(path) == sha256:
            return path, name, sha256
    return None, name, sha256


def _shipped_weights() -> list[Path]:
    try:
        return sorted(shipped_dir("weights").glob("*.safetensors"))
    except UserError:
        return []


def was_training_loss(extractor: str, weights: Path | None) -> str:
    """Whether the network of these features also trained ``weights``: "yes", "no", or "unknown" without a card."""
    if weights is None:
        return "unknown"
    loss = read_card(weights).recipe.get("loss", {}).get("perceptual_network")
    if loss is None:
        return "unknown"
    return "yes" if loss != "none" and extractor.lower().startswith(loss.removesuffix("19")) else "no"
