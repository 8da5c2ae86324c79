"""Options of a render, which of them change pixels, and which contradict each other."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...backends.base import Backend, Precision, TileSize, check_size
from ...core.errors import UserError, refuse
from ...core.sizes import Native, Size, format_size
from ...core.version import VERSION
from ...data.masks import MaskFormat
from ...weights.card import Card

ImageFormat = Literal["png", "jpeg", "webp"]
SUFFIXES: dict[ImageFormat, str] = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
DEFAULT_QUALITY = 92
MAX_SAMPLES = 100_000


@dataclass(frozen=True)
class RenderOptions:
    """What ``spade render`` is asked to do.

    masks: a folder (searched in depth) or one mask file.
    weights: None for the shipped facades weights.
    samples: images per mask, at most MAX_SAMPLES. seed: any integer; one z per (seed, mask, sample).
    size: (height, width), "native" for each mask's own size rounded to the network's stride, None for the
        card's training size.
    quality: 1 to 100, for jpeg and webp.
    shared_z: sample i has the same z for every mask.
    instances: folder (or file) of instance maps, under the masks' names; None for connected components.
    use_edges: False feeds zeros to the edge channel.
    batch: images per network call, None for a default by device and size. workers: threads on either side of
        the network.
    plain: compute by the convolutions that were trained, not by the fast form. precision: of the network.
    tile: compute in tiles of at most this many pixels a side, "auto" for a size that suits most: for images that are
        too large to compute in one piece.
    skip_bad: leave bad masks out and report them at the end, instead of checking every mask first.
    overwrite: replace images that were made with other options or from another mask.
    pixels_in_h5: renders.h5 holds the pixels too.
    engine: "auto" renders with a TensorRT engine for this GPU, fp16, built when first needed.
    """

    masks: Path = Path("masks")
    weights: Path | None = None
    out: Path = Path("renders")
    seed: int = 0
    samples: int = 1
    size: Size | Native | None = None
    image_format: ImageFormat = "png"
    quality: int | None = None
    shared_z: bool = False
    instances: Path | None = None
    use_edges: bool = True
    mask_format: MaskFormat = "auto"
    batch: int | None = None
    workers: int | None = None
    device: str = "auto"
    plain: bool = False
    precision: Precision = "fp32"
    tile: TileSize = None
    skip_bad: bool = False
    overwrite: bool = False
    pixels_in_h5: bool = False
    gallery: bool = True
    engine: Literal["off", "auto"] = "off"
    dry_run: bool = False

    @property
    def suffix(self) -> str:
        """Suffix of the images."""
        return SUFFIXES[self.image_format]

    @property
    def lossy_quality(self) -> int | None:
        """Quality of the images, None where the format is lossless."""
        return None if self.image_format == "png" else self.quality or DEFAULT_QUALITY


@dataclass(frozen=True)
class Source:
    """The network of a run: an open backend and the file that it came from."""

    backend: Backend
    path: Path
    sha256: str


def check_options(options: RenderOptions, card: Card, fixed_size: Size | None = None) -> None:
    """Raise one UserError that lists every option that is wrong, alone or with these weights.

    fixed_size: the one size of a converted file.
    """
    problems = [
        f"{flag} {value}: expected {least} or more"
        for flag, value, least in (
            ("--samples", options.samples, 1),
            ("--batch", options.batch, 1),
            ("--workers", options.workers, 1),
        )
        if value is not None and value < least
    ]
    if options.samples > MAX_SAMPLES:
        problems.append(f"--samples {options.samples}: expected at most {MAX_SAMPLES:,}")
    if options.samples > 1 and not card.architecture.uses_z:
        problems.append(
            f"--samples {options.samples}: weights {card.name!r} start from the map alone (latent = map), "
            "so that every sample of a mask would be the same image; leave --samples at 1"
        )
    if options.quality is not None and options.image_format == "png":
        problems.append(f"--quality {options.quality}: PNG is lossless; choose --format jpeg or webp")
    elif options.quality is not None and not 1 <= options.quality <= 100:
        problems.append(f"--quality {options.quality}: expected 1 to 100")
    if options.instances and not options.use_edges:
        problems.append("--instances and --no-edges exclude each other")
    elif options.instances and not card.labels.instances:
        problems.append(f"--instances: weights {card.name!r} have no edge channel")
    if options.size == "native" and options.pixels_in_h5:
        problems.append("--h5 stores one array and needs one size; give --size HEIGHTxWIDTH instead of native")
    if fixed_size is not None and options.size not in (None, fixed_size):
        shown = options.size if options.size == "native" else format_size(options.size or fixed_size)
        problems.append(
            f"--size {shown}: these weights were converted for {format_size(fixed_size)} alone; "
            "spade convert --size makes a file for another size, and .safetensors take any"
        )
    elif isinstance(options.size, tuple):
        try:
            check_size(options.size, card)
        except UserError as e:
            problems.append(f"{e.message}; {e.hint}")
    refuse(problems)


def edge_source(options: RenderOptions, card: Card) -> str:
    """Where the edge channel comes from: "instances", "components", "zeros", or "" if the weights have none."""
    if not card.labels.instances:
        return ""
    if not options.use_edges:
        return "zeros"
    return "instances" if options.instances else "components"


def options_row(options: RenderOptions, source: Source) -> dict[str, Any]:
    """The manifest's ``options`` row; ``id`` covers what changes pixels, the rest is for people and later steps.

    The device, the batch, the number of samples, the form of the network and tiles are not covered: a run may be
    resumed elsewhere, or add samples. Forms, tiles and devices differ by rounding alone, by one level in few pixels.
    """
    card = source.backend.card
    pixels = {
        "weights_sha256": source.sha256,
        "backend": source.backend.name,
        "size": "native" if options.size == "native" else format_size(options.size or card.architecture.size),
        "edges": edge_source(options, card),
        "mask_format": options.mask_format,
        "format": options.image_format,
        "quality": options.lossy_quality,
    }
    if options.precision != "fp32":  # left out otherwise: older folders can be resumed
        pixels["precision"] = options.precision
    return {
        "kind": "options",
        "id": hashlib.sha256(json.dumps(pixels, sort_keys=True).encode()).hexdigest()[:16],
        **pixels,
        "weights": source.path.name,
        "card": card.name,
        "latent": card.architecture.latent,
        "z_dim": card.architecture.z_dim if card.architecture.uses_z else 0,
        "seed": str(options.seed),
        "shared_z": options.shared_z,
        "masks": str(options.masks),
        "classes": [{"name": c.name, "color": list(c.color)} for c in card.labels.classes],
        "created_by": f"spade {VERSION}",
    }
