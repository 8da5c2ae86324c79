"""Options of a score, and what a preset makes of those that were not given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...core.errors import UserError, refuse
from ...core.recipe_files import Resolved, find_recipe, load_recipe
from ...metrics.confusion import Absent
from ...metrics.features import Resize
from .presets import PRESETS, LabelResize, Name, Preset
from .sets import Samples

Perceptual = Literal["auto", "vgg19", "vgg16", "squeezenet", "none"]


@dataclass(frozen=True)
class ScoreOptions:
    """What to score, and how. None stands for what the protocol sets.

    renders: folder of renders, or None for the floor alone. real: folder of photographs, or a file that
        ``save_real`` made; None: the shipped statistics, if they fit the segmenter. labels: folder of masks;
        None: those of the renders' manifest. only, holdout: score just these names, or just the names that a
        recipe holds out. unpaired: compare with photographs of which none is named as a render.
    floor_from: photographs that the floor draws from; None: those in ``real`` that the selection leaves over.
    extractor or inception: the TorchScript file of the features; the extractor "segmenter" stands for the
        segmenter's own. Neither: the FID Inception from the cache or its publisher's address, and the segmenter's
        features if that is not available.
    size: (height, width) at which pictures are compared; None: the renders' own. segmenter: weights, ONNX file,
        model folder or folder of predicted label maps; None: the shipped one, if its classes are the masks'.
        mapping: class mapping file of the segmenter. recipe: its label space is the masks'; None: holdout's, else
        the weights', else the segmenter's.
    perceptual: network of the diversity; "auto": the one that the weights were trained with, if available.
    lpips: file of LPIPS (AlexNet and the linear heads); the name "fetch" stands for AlexNet from torchvision's address
        and the heads in the package lpips. None: these two, if they are on this machine.
    weights: what made the renders; None: what the manifest names, if found. style: have it render some of
        the masks several times, to see how much style is used. draws, seed: of the floor.
    out: where the scores go; None: scores.h5 beside the renders. report: write scores.html beside the scores.
    """

    renders: Path | None
    real: Path | None = None
    labels: Path | None = None
    extractor: Path | None = None
    inception: Path | None = None
    segmenter: str = ""
    mapping: Path | None = None
    recipe: str = ""
    protocol: Name | None = None
    size: tuple[int, int] | None = None
    only: tuple[str, ...] = ()
    holdout: str = ""
    unpaired: bool = False
    floor_from: Path | None = None
    samples: Samples | None = None
    label_resize: LabelResize | None = None
    absent: Absent | None = None
    perceptual: Perceptual = "auto"
    perceptual_weights: Path | None = None
    lpips: Path | None = None
    weights: Path | None = None
    style: bool = True
    draws: int = 10
    seed: int = 0
    batch: int = 32
    device: str = "auto"
    cache: Path | None = None
    save_real: Path | None = None
    out: Path | None = None
    report: bool = True


@dataclass(frozen=True)
class ScoreSettings:
    """Settings after the protocol and the options are combined."""

    preset: Preset | None
    samples: Samples
    resize: Resize
    label_resize: LabelResize
    absent: Absent


def score_settings(options: ScoreOptions) -> ScoreSettings:
    """Options first, then the preset, then the defaults."""
    preset = PRESETS[options.protocol] if options.protocol else None
    return ScoreSettings(
        preset=preset,
        samples=options.samples or (preset.samples if preset else "first"),
        resize=preset.resize if preset else "bytes",
        label_resize=options.label_resize or (preset.label_resize if preset else "to-image"),
        absent=options.absent or (preset.absent if preset else "left-out"),
    )


def check_options(options: ScoreOptions) -> None:
    """Raise one UserError that lists every contradiction."""
    clean = options.protocol is not None and PRESETS[options.protocol].resize == "clean"
    problems = [
        text
        for wrong, text in (
            (options.only and options.holdout, "--only and --holdout exclude each other"),
            (options.extractor and options.inception, "--extractor and --inception exclude each other"),
            (options.mapping and not options.segmenter, "--mapping needs --segmenter"),
            (options.save_real and not _is_folder(options.real), "--save-real needs photographs: --real FOLDER"),
            (clean and options.size, f"--protocol {options.protocol} fixes the size; leave --size out"),
            (
                options.perceptual_weights and options.perceptual in ("auto", "none"),
                "--perceptual-weights needs --perceptual squeezenet, vgg16 or vgg19",
            ),
            (options.renders is None and options.real is None, "the floor alone needs --real PHOTOS"),
        )
        if wrong
    ]
    refuse(problems)


def _is_folder(path: Path | None) -> bool:
    return path is not None and path.is_dir()


def selection(options: ScoreOptions) -> tuple[tuple[str, ...], str]:
    """The names to score, none for all of them, and the words for them."""
    if options.only:
        return options.only, f"{len(options.only)} names"
    if not options.holdout:
        return (), "all pictures"
    recipe = load_recipe(find_recipe(options.holdout)).recipe
    if not recipe.data.holdout:
        raise UserError(f"recipe {recipe.name} holds nothing out", hint="list names in data.holdout, or use --only")
    return recipe.data.holdout, f"held out by recipe {recipe.name}"


def label_recipe(options: ScoreOptions) -> Resolved | None:
    """The recipe whose label space the masks have, if one was named."""
    name = options.recipe or options.holdout
    return load_recipe(find_recipe(name)) if name else None
