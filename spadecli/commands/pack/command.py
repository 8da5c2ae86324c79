"""Pack folders of photos and masks into one HDF5 file, after checking every file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...core.errors import UserError
from ...core.parallel import map_in_order
from ...core.recipe import OUTSIDE_FOUND, Recipe
from ...core.recipe_files import find_recipe, load_recipe
from ...core.report import Report, Silent, count
from ...core.sizes import Size, format_size
from ...data.coco import CocoInstances
from ...data.edges import connected_components
from ...data.files import check_file
from ...data.folder import Item, Kind, Pairing, of_scenes, pair, read_scenes, scan
from ...data.masks import MaskFormat
from ...data.packed import Packed, PackedWriter, create_packed
from ...data.pairs import DrawInstances, read_pair, same_aspect
from ...data.statistics import ClassCount, ClassCounter
from ...store.h5 import file_sha256, source_digest

SHOWN_NAMES = 5


@dataclass(frozen=True)
class PackOptions:
    """What to pack. None means: as the recipe says.

    recipe: name or file; by default ``recipe.toml`` of the working directory, else the shipped facades.
    photos, masks, instances: folders, or single files; instances may also be a COCO annotation file (.json).
    out: the file to write. size: (height, width).
    photo_suffix, mask_suffix, instance_suffix: take only files that end so, and pair them by what stands before.
    skip_bad: leave pairs with mistakes out instead of refusing the whole set.
    """

    photos: Path | None = None
    masks: Path | None = None
    instances: Path | None = None
    recipe: str | None = None
    out: Path | None = None
    size: Size | None = None
    mask_format: MaskFormat = "auto"
    photo_suffix: str | None = None
    mask_suffix: str | None = None
    instance_suffix: str | None = None
    overwrite: bool = False
    skip_bad: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class PackResult:
    """What was packed, or with ``up_to_date`` what the file held already.

    classes: pixels and images per class, in the masks' own sizes; photo_sizes: "HxW" -> number of photos;
    skipped: one line for each file or pair that was left out; sha256: of the packed content.
    """

    path: Path
    recipe: str
    pairs: int
    size: Size
    has_instances: bool
    classes: tuple[ClassCount, ...]
    photo_sizes: dict[str, int]
    skipped: tuple[str, ...]
    sha256: str
    written: bool
    up_to_date: bool

    @property
    def never_seen(self) -> tuple[str, ...]:
        """Classes without a pixel."""
        return tuple(c.name for c in self.classes if not c.pixels)


class _PackPlan(NamedTuple):
    recipe: Recipe
    folders: dict[Kind, Path]
    endings: dict[Kind, str]
    size: Size
    out: Path
    options: PackOptions

    @property
    def annotations(self) -> Path | None:
        """The COCO file that instance maps are drawn from, if they are."""
        path = self.folders.get("instances")
        return path if path is not None and path.suffix == ".json" else None

    @property
    def config(self) -> dict[str, Any]:
        return {
            "labels": self.recipe.labels.model_dump(mode="json"),
            "size": list(self.size),
            "mask_format": self.options.mask_format,
            "suffixes": self.endings,
            **({"outside": OUTSIDE_FOUND} if self.finds_outside else {}),
        }

    @property
    def finds_outside(self) -> bool:
        return self.recipe.data.outside == OUTSIDE_FOUND


def pack(options: PackOptions, report: Report | None = None) -> PackResult:
    """Check every file of the folders, then write the packed file; an up-to-date one is left as it is.

    Raises UserError that lists everything wrong with the folders and their files; nothing is written then.
    With ``skip_bad`` what is wrong is left out and listed in the result.
    """
    report = report or Silent()
    plan = _plan(options)
    report.note(f"label space {plan.recipe.labels.name} of recipe {plan.recipe.name}")
    pairing = _find_pairs(plan, report)
    digest = _source_digest(plan, pairing, report)
    if known := _existing(plan, digest):
        report.note(f"{plan.out} is up to date: same files, same options")
        return known
    result = _write(plan, pairing, digest, report)
    _remark(plan, pairing, result, report)
    return result


def _plan(options: PackOptions) -> _PackPlan:
    name = options.recipe or ("recipe.toml" if Path("recipe.toml").is_file() else "facades")
    recipe = load_recipe(find_recipe(name)).recipe
    if (options.photos is None) != (options.masks is None):
        raise UserError("give both folders, PHOTOS and MASKS, or neither to take the recipe's")
    data = recipe.data
    out = options.out or Path(data.packed)
    if out.is_dir():
        raise UserError(f"{out}: a folder, where a file is needed", hint=f"-o {out / 'packed.h5'}")
    folders: dict[Kind, Path] = {
        "photos": options.photos or Path(data.photos),
        "masks": options.masks or Path(data.masks),
    }
    if options.photos is None and not (data.photos and data.masks):
        raise UserError(f"recipe {recipe.name} names no folders of photos and masks", hint="spade pack PHOTOS MASKS")
    if options.instances is not None:
        folders["instances"] = options.instances
    elif options.photos is None and data.instances:
        folders["instances"] = Path(data.instances)
    if options.photos is None and data.outside not in ("", OUTSIDE_FOUND):
        folders["outside"] = Path(data.outside)
    endings: dict[Kind, str] = {
        "photos": data.photo_suffix if options.photo_suffix is None else options.photo_suffix,
        "masks": data.mask_suffix if options.mask_suffix is None else options.mask_suffix,
        "instances": data.instance_suffix if options.instance_suffix is None else options.instance_suffix,
    }
    return _PackPlan(recipe, folders, endings, options.size or data.load_size, out, options)


def _find_pairs(plan: _PackPlan, report: Report) -> Pairing:
    found: dict[Kind, list[Item]] = {}
    problems = []
    for kind, folder in plan.folders.items():
        try:
            if folder == plan.annotations:
                check_file(folder)
            else:
                found[kind] = scan(folder, kind, plan.endings.get(kind, ""))
        except UserError as e:
            problems.append(e.line)
    if scenes := plan.recipe.data.scenes:
        try:
            scene_of = read_scenes(Path(plan.recipe.data.scene_file))
            every = found
            found = {kind: of_scenes(items, scene_of, scenes) for kind, items in found.items()}
            _report_scenes(plan, every.get("photos", []), len(found.get("photos", ())), scene_of, report)
            problems += [
                f"{plan.folders[kind]}: no {kind} of data.scenes"
                for kind, items in found.items()
                if not items and kind != "outside"
            ]
        except UserError as e:
            problems.append(e.line)
    if problems:
        recipe = plan.recipe
        hint = f"{recipe.name}: {recipe.data.source}" if recipe.data.source and plan.options.photos is None else ""
        expected = f"put the files there, or name other folders: spade pack PHOTOS MASKS. {hint}".strip()
        raise UserError("the folders cannot be paired", problems=problems, hint=expected)
    pairing = pair(found["photos"], found["masks"], found.get("instances"), found.get("outside", ()))
    if not pairing.pairs:
        raise UserError(
            f"no file in {plan.folders['photos']} has the name of one in {plan.folders['masks']}",
            problems=pairing.unpaired[: 2 * SHOWN_NAMES],
            hint="photo and mask need the same relative path without suffix; see --photo-suffix and --mask-suffix",
        )
    return pairing


def _report_scenes(
    plan: _PackPlan, photos: list[Item], num_kept: int, scene_of: Mapping[str, str], report: Report
) -> None:
    """How many photographs show a wanted scene, and which ones the list does not know."""
    report.note(f"{num_kept} of {count(len(photos), 'photograph')} show data.scenes")
    if unlisted := [p.relative for p in photos if p.key.rpartition("/")[2] not in scene_of]:
        shown = ", ".join(unlisted[:SHOWN_NAMES]) + ", ..." * (len(unlisted) > SHOWN_NAMES)
        report.warn(
            f"{plan.recipe.data.scene_file} does not list {count(len(unlisted), 'photograph')}, left out: {shown}"
        )


def _source_digest(plan: _PackPlan, pairing: Pairing, report: Report) -> str:
    files = [(f"{kind}/{item.relative}", item.path) for p in pairing.pairs for kind, item in p.items.items()]
    if plan.annotations is not None:
        files.append(("annotations", plan.annotations))
    with report.progress("looking at files", len(files)) as task:
        digests = []
        for relative, digest in zip((r for r, _ in files), map_in_order(_digest, (p for _, p in files)), strict=True):
            digests.append((relative, digest))
            task.advance()
    return source_digest(digests)


def _digest(path: Path) -> str:
    try:
        return file_sha256(path) if path.is_file() else "unreadable"
    except OSError:
        return "unreadable"  # reading the pair says why, with everything else that is wrong


def _existing(plan: _PackPlan, source_sha256: str) -> PackResult | None:
    if not plan.out.exists() or plan.options.overwrite:
        return None
    hint = "--overwrite replaces it; -o FILE writes elsewhere"
    try:
        packed = Packed(plan.out)
    except UserError as e:
        raise UserError(f"{e.line}, and is in the way", hint=hint) from e
    same = packed.source_sha256 == source_sha256 and packed.config == plan.config
    if not same:
        raise UserError(f"{plan.out}: was packed from other files or with other options", hint=hint)
    if packed.report["skipped"] and not plan.options.skip_bad:
        raise UserError(f"{plan.out}: was packed with --skip-bad", problems=packed.report["skipped"], hint=hint)
    return _result(plan, packed.report, packed.sha256, up_to_date=True)


def _write(plan: _PackPlan, pairing: Pairing, source_sha256: str, report: Report) -> PackResult:
    """Read every pair once. The file is written as they come; on any mistake its part file is dropped."""
    options = plan.options
    labels = plan.recipe.labels
    has_instances = "instances" in plan.folders or labels.instances
    draw_instances: DrawInstances | None = None
    if plan.annotations is not None:
        draw_instances = CocoInstances(plan.annotations, labels).instance_map
    elif "instances" not in plan.folders and labels.instances:
        draw_instances = _components
    target: AbstractContextManager[PackedWriter | None] = (
        nullcontext()
        if options.dry_run
        else create_packed(plan.out, len(pairing.pairs), has_instances, plan.config, source_sha256)
    )
    counter, sizes = ClassCounter(labels), Counter[str]()
    problems, pairs, sha256 = list(pairing.unpaired), 0, ""
    read = partial(
        read_pair,
        labels=labels,
        size=plan.size,
        mask_format=options.mask_format,
        draw_instances=draw_instances,
        is_outside_found=plan.finds_outside,
    )
    with target as writer, report.progress("packing", len(pairing.pairs)) as task:
        for p, outcome in zip(pairing.pairs, map_in_order(read, pairing.pairs), strict=True):
            task.advance(status=p.key)
            if isinstance(outcome, list):
                problems += outcome
                continue
            pairs += 1
            counter.add(outcome.counts)
            sizes[format_size(outcome.photo_size)] += 1
            if writer is not None and (options.skip_bad or not problems):
                writer.add(p.key, outcome.sample)
        _refuse(problems, pairs, options)
        summary = {
            "pairs": pairs,
            "has_instances": has_instances,
            "classes": [asdict(c) for c in counter.result()],
            "photo_sizes": dict(sizes.most_common()),
            "skipped": problems,
        }
        if writer is not None:
            sha256 = writer.finish(summary)
    return _result(plan, summary, sha256, written=writer is not None)


def _components(key: str, codes: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Stand-in for a missing instance map."""
    return connected_components(codes)


def _refuse(problems: list[str], pairs: int, options: PackOptions) -> None:
    if problems and not options.skip_bad:
        raise UserError(
            f"{len(problems)} mistake{'s' * (len(problems) != 1)} in the folders; nothing was written",
            problems=problems,
            hint="correct them, or leave these files out with --skip-bad; another label space: --recipe FILE.toml",
        )
    if not pairs:
        raise UserError("not one pair is free of mistakes; nothing was written", problems=problems)


def _result(
    plan: _PackPlan, summary: dict[str, Any], sha256: str, *, written: bool = False, up_to_date: bool = False
) -> PackResult:
    return PackResult(
        path=plan.out,
        recipe=plan.recipe.name,
        pairs=summary["pairs"],
        size=plan.size,
        has_instances=summary["has_instances"],
        classes=tuple(ClassCount(**c) for c in summary["classes"]),
        photo_sizes=summary["photo_sizes"],
        skipped=tuple(summary["skipped"]),
        sha256=sha256,
        written=written,
        up_to_date=up_to_date,
    )


def _remark(plan: _PackPlan, pairing: Pairing, result: PackResult, report: Report) -> None:
    """Say what is no mistake, but worth knowing before training."""
    recipe = plan.recipe
    sizes = {text: tuple(int(part) for part in text.split("x")) for text in result.photo_sizes}
    squeezed = [text for text, size in sizes.items() if not same_aspect(size, plan.size)]
    if squeezed:
        report.warn(
            f"photos of {', '.join(squeezed[:SHOWN_NAMES])} are squeezed to {format_size(plan.size)}, as in the paper; "
            "data.load_size and model.size of another aspect keep theirs"
        )
    if result.never_seen:
        report.warn(f"classes without a pixel: {', '.join(result.never_seen)}")
    if recipe.labels.instances and "instances" not in plan.folders:
        report.warn(
            f"label space {recipe.labels.name} has an edge channel, but there are no instance maps: connected "
            "components of the label maps are packed in their place (--instances DIR gives maps)"
        )
    if strange := sorted(set(recipe.data.holdout) - {p.key for p in pairing.pairs}):
        shown = ", ".join(strange[:SHOWN_NAMES]) + (", ..." if len(strange) > SHOWN_NAMES else "")
        report.warn(f"{len(strange)} of the {len(recipe.data.holdout)} held-out names are not among the pairs: {shown}")
