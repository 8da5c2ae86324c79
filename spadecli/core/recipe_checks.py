"""What contradicts itself in a raw recipe: windows, stages and lengths, checked beside the fields (recipe.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .architecture import UPSAMPLES, Architecture
from .schema import as_size


def window_problems(
    given: Any, share: Any, size: tuple[int, int] | None, where: str, tree: Mapping[str, Any]
) -> list[str]:
    """What is wrong with the windows of ``where`` ("train" or a stage), given the size of its images."""
    if given is None:
        return [f"{where}.window_share needs a train.window"] if share else []
    if where != "train" and not share and "window" in stages_in(tree)[int(where.rpartition(".")[2])]:
        return [f"{where}.window does nothing without a window_share"]
    window, stride = as_size(given), stride_of(tree)
    if window is None or size is None or stride is None or (where != "train" and not share):
        return []
    if all(stride <= w <= s and w % stride == 0 for w, s in zip(window, size, strict=True)):
        return []
    most = "model.size" if where == "train" else "the stage's size"
    return [f"{where}.window {list(window)}: expected multiples of {stride}, at most {most} {list(size)}"]


def stage_problems(
    stages: Sequence[Mapping[str, Any]], size: tuple[int, int] | None, tree: Mapping[str, Any]
) -> list[str]:
    """What is wrong with the stages' lengths, sizes and batches, given model.size."""
    if not stages:
        return []
    train, problems = table_of(tree, "train"), []
    lengths, given = [stage.get("steps") for stage in stages], train.get("steps")
    total = sum(n for n in lengths if isinstance(n, int))
    if train.get("epochs") is not None:
        problems.append("train.epochs: the stages give the length of the run in steps; leave it out, or stage = []")
    elif given != total and all(isinstance(n, int) for n in lengths):
        problems.append(f"train.steps = {given}: the stages have {total} steps in all; leave it out, or stage = []")
    stride, sizes = stride_of(tree), [as_size(stage.get("size", size)) for stage in stages]
    for i, own_size in enumerate(sizes):
        if own_size is None:
            continue
        own, (height, width) = f"stage.{i}.size {list(own_size)}", own_size
        if stride is not None and (min(height, width) < stride or height % stride or width % stride):
            problems.append(f"{own}: height and width must be multiples of {stride}, the stride of model.upsampling")
        elif size is not None and (height > size[0] or width > size[1]):
            problems.append(f"{own}: larger than model.size {list(size)}, to which images are cropped")
        elif size is not None and height * size[1] != width * size[0]:
            problems.append(f"{own}: not the aspect ratio of model.size {list(size)}, from which images are reduced")
    parts = train.get("accumulate", 1)
    for i, batch in ((i, stage["batch"]) for i, stage in enumerate(stages) if "batch" in stage):
        if isinstance(batch, int) and isinstance(parts, int) and parts > 0 and batch % parts:
            problems.append(f"stage.{i}.batch: train.accumulate = {parts} does not divide batch = {batch}")
    last = sizes[-1]
    if last is not None and size is not None and last != size:
        problems.append(
            f"stage.{len(stages) - 1}.size {list(last)}, model.size {list(size)}: the last stage trains at model.size"
        )
    return problems


def with_steps_of_stages(tree: Any) -> Any:
    """Fill in train.steps from the stages, where a raw recipe gives no length."""
    stages, train = stages_in(tree), table_of(tree, "train")
    if not stages or train.get("steps") is not None or train.get("epochs") is not None:
        return tree
    steps = [stage.get("steps") for stage in stages]
    return {**tree, "train": {**train, "steps": sum(n for n in steps if isinstance(n, int)) or 1}}


def stages_in(tree: Any) -> list[dict[str, Any]]:
    """Return the raw stages of a raw recipe, without values of None; none if they are something else."""
    stages = tree.get("stage") if isinstance(tree, dict) else None
    if not isinstance(stages, list | tuple) or not all(isinstance(stage, dict) for stage in stages):
        return []
    return [{key: value for key, value in stage.items() if value is not None} for stage in stages]


def table_of(tree: Any, section: str) -> dict[str, Any]:
    """Return a section of a raw recipe; an empty one if it is missing, or no table."""
    table = tree.get(section) if isinstance(tree, dict) else None
    return table if isinstance(table, dict) else {}


def stride_of(tree: Mapping[str, Any]) -> int | None:
    """Return the stride of a raw recipe's model.upsampling; None if it is none of the known."""
    name = table_of(tree, "model").get("upsampling", Architecture.model_fields["upsampling"].default)
    return 1 << UPSAMPLES[name] if name in UPSAMPLES else None
