"""What a score depends on besides the pictures, and what made the renders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...core.errors import UserError
from ...core.recipe_files import resolve_weights, shipped_dir
from ...core.sizes import Size, format_size
from ...store import h5
from ...weights.file import read_card
from .sets import weights_of


@dataclass(frozen=True)
class DistanceProtocol:
    """Protocol of distances in the features of one network."""

    extractor: str
    extractor_sha256: str
    dimensions: int
    extractor_was_training_loss: str
    size: tuple[int, int]
    resize: str
    real: str
    real_count: int
    real_sizes: dict[str, int]
    paired: int | None
    neighbours: str
    floor_from: str = ""
    floor_count: int = 0
    floor_draws: int = 0


@dataclass(frozen=True)
class SegmentationProtocol:
    """Protocol of IoU and accuracy. photos: how many photographs were measured for the ceiling.

    trust: how the segmenter does on real photographs beside its baselines, as its card says.
    """

    segmenter: str
    segmenter_sha256: str
    trust: str
    masks: str
    mask_count: int
    label_space: str
    label_resize: str
    ignore: str
    absent: str
    photos: int


@dataclass(frozen=True)
class DiversityProtocol:
    """Protocol of a distance between samples of a mask. pairs: of samples, over all masks."""

    network: str
    weights: str
    weights_sha256: str
    input: str
    masks: int
    samples: str
    pairs: int
    size: str = "the renders' own, not resized"
    mean: str = "over the pairs of samples of a mask, then over the masks"


@dataclass(frozen=True)
class LookProtocol:
    """Protocol of sharpness, light and colours: the photographs, and the size (height, width) of both sets."""

    real: str
    real_count: int
    size: Size


@dataclass(frozen=True)
class StyleProtocol:
    """Protocol of the use of style: which masks the weights rendered for it, and which photographs they encoded."""

    masks: str
    photos: str


@dataclass(frozen=True)
class Protocol:
    """Everything that scores depend on besides the pictures; numbers compare only where this is the same.

    facts, uncertain: what is known and not known of the published protocol that was asked for.
    not_run: what could not be measured, and why.
    """

    preset: str
    split: str
    renders: str
    render_count: int
    render_sizes: dict[str, int]
    samples: str
    weights: str
    weights_sha256: str
    seed: int
    distances: tuple[DistanceProtocol, ...] = ()
    segmentation: SegmentationProtocol | None = None
    diversity: DiversityProtocol | None = None
    lpips: DiversityProtocol | None = None
    look: LookProtocol | None = None
    style: StyleProtocol | None = None
    facts: tuple[str, ...] = ()
    uncertain: tuple[str, ...] = ()
    not_run: dict[str, str] = field(default_factory=dict)


def size_counts(sizes: Mapping[Size, int]) -> dict[str, int]:
    """Counts of pictures by size, as "256x512"."""
    return {format_size(size): n for size, n in sorted(sizes.items())}


def find_weights(renders: Path | None, given: Path | None) -> tuple[Path | None, str, str]:
    """The weights file that made the renders, if it is found; its name and SHA-256, if they are known.

    ``given`` is what the user says it is; else the shipped weights and those of the runs in the current folder are
    compared with what the manifest says.
    Raises UserError where the given file is not what the manifest says.
    """
    name, sha256 = weights_of(renders) if renders else ("", "")
    if given:
        given = resolve_weights(given)
        found = h5.file_sha256(given) if given.is_file() else ""
        if found and sha256 and found != sha256:
            raise UserError(f"{given}: did not make these renders; {renders} is by {name}, {sha256}")
        return given, given.name, found
    for path in _known_weights() if sha256 else ():
        if path.name == name and h5.file_sha256(path) == sha256:
            return path, name, sha256
    return None, name, sha256


def _known_weights() -> list[Path]:
    runs = sorted(Path("runs").glob("*/*.safetensors"))
    try:
        return [*sorted(shipped_dir("weights").glob("*.safetensors")), *runs]
    except UserError:
        return runs


def was_training_loss(extractor: str, weights: Path | None) -> str:
    """Whether the network of these features also trained ``weights``: "yes", "no", or "unknown" without a card."""
    if weights is None:
        return "unknown"
    loss = perceptual_network(weights)
    if loss is None:
        return "unknown"
    return "yes" if loss != "none" and extractor.lower().startswith(loss.rstrip("0123456789")) else "no"


def perceptual_network(weights: Path) -> str | None:
    """The network of the perceptual loss that trained ``weights``, None where the card does not say."""
    found = read_card(weights).recipe.get("loss", {}).get("perceptual_network")
    return None if found is None else str(found)
