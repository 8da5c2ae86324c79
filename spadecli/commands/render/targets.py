"""The plan of a render: masks, the names of their images, and every reason to refuse."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import UserError
from ...core.report import count
from ...core.seeds import sample_seed
from ...data.folder import scan
from ...store.manifest import NAME, Journal, Row
from .latents import Style, style_changes
from .options import RenderOptions, Source, check_options, options_row

MAX_NAME_BYTES = 255 - len(".4194304.part")  # what file systems allow, less the ending of a file being written
MAX_IMAGES = 10_000_000  # of one call
UNWRITTEN = {"precision": "fp32"}  # what a row that does not say so means
OPTION_WORDS = ("backend", "size", "edges", "mask_format", "format", "quality", "precision")


@dataclass(frozen=True)
class Target:
    """One mask file, its key (relative name without suffix) and its instance map, if any."""

    mask: Path
    key: str
    instances: Path | None = None

    @property
    def colored_file(self) -> str:
        """Relative name of the coloured mask; no image can have it, since images end in a number."""
        return f"_masks/{self.key}_mask.png"


@dataclass(frozen=True, slots=True)
class Image:
    """One image to render: its sample number, its 64-bit seed, its relative name, its style (None: z is of the seed).

    seed is None where nothing is drawn: without z, and in a style without noise.
    """

    sample: int
    seed: int | None
    file: str
    style: Style | None = None


@dataclass(frozen=True)
class RenderPlan:
    """A checked render: nothing in it depends on what the masks hold.

    styles: what every mask is rendered in; (None,) for z of the seeds alone.
    """

    options: RenderOptions
    source: Source
    row: Row
    targets: tuple[Target, ...]
    journal: Journal
    styles: tuple[Style | None, ...] = (None,)

    @property
    def images_per_mask(self) -> int:
        """Samples of all styles."""
        return self.options.samples * len(self.styles)

    @property
    def restart(self) -> bool:
        """Whether the folder holds renders of other weights, which --overwrite forgets."""
        newest = self.journal.newest_options
        return newest is not None and newest["weights_sha256"] != self.source.sha256

    def images(self, target: Target) -> Iterator[Image]:
        """Every image of a mask in order of style and sample, rendered already or not."""
        options = self.options
        key = "" if options.shared_z else target.key
        has_z = self.source.backend.card.architecture.uses_z
        for style in self.styles:
            folder = f"{style.name}/" if style else ""
            has_seed = has_z and (style is None or style.noise != 0)
            for i in range(options.samples):
                seed = sample_seed(options.seed, key, i) if has_seed else None
                yield Image(i, seed, f"{folder}{target.key}_{i}{options.suffix}", style)

    def digest(self, image: Image, mask_sha256: str, instances_sha256: str) -> str:
        """What an image is made of, in one hash: weights, options, mask, instance map, seed, style."""
        parts = [self.row["id"], mask_sha256, instances_sha256, image.seed]
        if image.style is not None:
            parts.append(image.style.id)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def make_plan(
    options: RenderOptions, source: Source, journal: Journal, styles: tuple[Style | None, ...] = (None,)
) -> RenderPlan:
    """Find the masks, pair the instance maps, check options and names. Reads no mask.

    Raises UserError that lists every problem of a kind.
    """
    check_options(options, source.backend.card, source.backend.fixed_size)
    targets = _find_targets(options)
    plan = RenderPlan(options, source, options_row(options, source), tuple(targets), journal, styles)
    if (num_images := len(targets) * plan.images_per_mask) > MAX_IMAGES:
        in_styles = f" in {len(styles):,} styles" if styles != (None,) else ""
        raise UserError(
            f"--samples {options.samples}: {num_images:,} images of {len(targets):,} masks{in_styles}; "
            f"expected at most {MAX_IMAGES:,}",
            hint="render with fewer samples, or some of the masks at a time",
        )
    _check_places(plan)
    if options.out.exists() and not options.overwrite:
        _check_renders_there(plan)
    return plan


def _find_targets(options: RenderOptions) -> list[Target]:
    if not options.masks.exists():
        raise UserError(
            f"{options.masks}: no such file or folder of masks",
            hint="MASKS is a folder of masks or one mask file; spade examples writes some to try",
        )
    items = scan(options.masks)
    if options.instances is None:
        return [Target(item.path, item.key) for item in items]
    found = {item.key: item.path for item in scan(options.instances)}
    if options.masks.is_file() and options.instances.is_file():
        found = {items[0].key: options.instances}
    if missing := [item.path for item in items if item.key not in found]:
        raise UserError(
            f"{options.instances}: {len(missing)} of {len(items)} masks have no instance map",
            problems=[f"{path}: no instance map of that name" for path in missing],
            hint="leave --instances out to take connected components",
        )
    return [Target(item.path, item.key, found[item.key]) for item in items]


def _check_places(plan: RenderPlan) -> None:
    """Refuse names that cannot be written, and places outside the output folder or among the masks."""
    options, targets = plan.options, plan.targets
    out, masks = options.out.resolve(), options.masks.resolve()
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"{options.out}: not a folder", hint="give a folder with -o")
    folder = masks if masks.is_dir() else masks.parent
    if out == folder or (masks.is_dir() and folder in out.parents):
        raise UserError(
            f"{options.out}: lies in the folder of masks {folder}, where images would be taken for masks",
            hint="give a folder elsewhere with -o",
        )
    ending = f"_{options.samples - 1}{options.suffix}"
    problems = []
    for target in targets:
        name = Path(target.key).name + max(ending, "_mask.png", key=len)
        if len(name.encode()) > MAX_NAME_BYTES:
            problems.append(f"{target.mask}: the name is too long for {target.key}{ending}")
    for style in plan.styles:
        if style is not None and len(style.name.encode()) > MAX_NAME_BYTES:
            problems.append(f"{style.name}: the style's name is too long for a folder")
    folders = {Path(t.colored_file).parent for t in targets}
    folders |= {Path(style.name if style else "") / Path(t.key).parent for style in plan.styles for t in targets}
    for folder in sorted(folders):
        if not (out / folder).resolve().is_relative_to(out):
            problems.append(f"{options.out / folder}: a link that leads out of {options.out}")
    inputs = {t.mask.resolve() for t in targets} if out in masks.parents else set()
    for target in targets if inputs else ():
        files = [image.file for image in plan.images(target)]
        problems += [f"{options.out / f}: is one of the masks" for f in files if out / f in inputs]
    if problems:
        raise UserError(f"{options.out}: {len(problems)} names cannot be written", problems=problems)


def _check_renders_there(plan: RenderPlan) -> None:
    """Refuse to replace what other options, other weights or other programs made."""
    out, newest = plan.options.out, plan.journal.newest_options
    if plan.restart and newest is not None:
        raise UserError(
            f"{out}: holds renders of other weights ({newest['weights']}, now {plan.row['weights']})",
            hint="give another folder with -o; or --overwrite, which starts a new manifest",
        )
    files: dict[str, list[str]] = {}
    for target in plan.targets:
        for image in plan.images(target):
            if reason := _why_refused(plan, image):
                files.setdefault(reason, []).append(image.file)
    if files:
        problems = [f"{reason}: {count(len(names), 'image')}, the first {names[0]}" for reason, names in files.items()]
        raise UserError(
            f"{out}: images are there already that this command would replace",
            problems=problems,
            hint="give another folder with -o; or replace them with --overwrite",
        )


def _why_refused(plan: RenderPlan, image: Image) -> str:
    row = plan.journal.images.get(image.file)
    if row is None:
        # in a folder with a manifest this is what a kill between an image and its row leaves
        foreign = plan.journal.newest_options is None and (plan.options.out / image.file).exists()
        return f"in no {NAME} (of another program, or the manifest was removed)" if foreign else ""
    if not (plan.options.out / image.file).exists():
        return ""
    if row["options"] != plan.row["id"]:
        old = plan.journal.options.get(row["options"])
        return "made with " + (changes(old, plan.row, OPTION_WORDS) if old else f"options that {NAME} does not hold")
    if row.get("style") != (image.style.id if image.style else None):
        return f"made with {style_changes(plan.journal.styles.get(row.get('style') or ''), image.style)}"
    if row["seed"] != seed_text(image.seed):
        return "made with another seed"
    return ""


def changes(old: dict[str, Any], new: dict[str, Any], keys: Iterable[str]) -> str:
    """ "size 128x128 (now 256x256), ..." for the keys in which two option rows differ."""
    pairs = ((k, *(row.get(k, UNWRITTEN.get(k)) for row in (old, new))) for k in keys)
    return ", ".join(f"{k} {was} (now {now})" for k, was, now in pairs if was != now)


def seed_text(seed: int | None) -> str | None:
    """A 64-bit seed as decimal text: JSON numbers lose digits beyond 53 bits."""
    return None if seed is None else str(seed)
