"""What differs where several processes train together: devices, downloads, and what to say of memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..backends.torch_backend import pick_device
from ..core.errors import BackendUnavailable, UserError
from ..core.ranks import World
from ..core.recipe import Recipe
from ..core.report import Report
from ..model.perceptual import is_fetched, load_perceptual

ROOM = 0.9  # of a device's memory: libraries and workspaces take the rest


def process_device(device: str, world: World) -> torch.device:
    """The device of this process: of several processes on a machine, each takes a GPU of its own.

    Raises UserError or BackendUnavailable where there is none for it.
    """
    picked = pick_device(device)
    if world.size == 1 or picked.type != "cuda":
        return picked
    if picked.index is not None and world.local_size > 1:
        hint = "--device cuda gives each process a GPU of its own; CUDA_VISIBLE_DEVICES says which"
        raise UserError(f"device {device!r}: {world.local_size} processes cannot share a GPU", hint=hint)
    gpus = torch.cuda.device_count()
    if world.local_size > gpus:
        raise BackendUnavailable(
            f"{world.local_size} processes on this machine, which has {gpus} GPU{'s' * (gpus != 1)}",
            hint=f"torchrun --nproc-per-node {gpus}, or --device cpu",
        )
    return picked if picked.index is not None else torch.device("cuda", world.local_rank)


def fetch_perceptual(recipe: Recipe, world: World, report: Report) -> None:
    """Download the perceptual network, once on each machine, if the recipe wants it and it is not there yet."""
    network = recipe.loss.perceptual_network
    if network == "none" or recipe.loss.perceptual_weights or is_fetched(network):
        return
    report.note(f"fetching {network} for the perceptual loss, once")
    if world.size > 1 and world.local_rank == 0:
        load_perceptual(network)


def describe_batch(recipe: Recipe, world: World) -> str:
    """The batch, and how it is split: "32 (4 processes x 8)"."""
    batch, parts = recipe.train.batch, recipe.train.accumulate
    factors = [f"{world.size} processes"] * (world.size > 1) + [f"{parts} micro-batches"] * (parts > 1)
    if not factors:
        return str(batch)
    return f"{batch} ({' x '.join([*factors, str(batch // (parts * world.size))])})"


@contextmanager
def memory_advice(recipe: Recipe, device: torch.device, world: World) -> Iterator[None]:
    """Say what to lower, and by how much, where memory runs out in the block."""
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as e:
        if not isinstance(e, torch.OutOfMemoryError) and "can't allocate memory" not in str(e):
            raise
        room = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else None
        raise out_of_memory(recipe, world, room) from e


def out_of_memory(recipe: Recipe, world: World, room: int | None) -> UserError:
    """The error for a step that did not fit into ``room`` bytes (None: unknown), with what is estimated to fit."""
    from .plan import estimate_memory

    train, (height, width) = recipe.train, recipe.model.size
    at_once = train.batch // (world.size * train.accumulate)
    where = f"train.batch = {describe_batch(recipe, world)}, size {height}x{width}, {train.precision}"
    needed = estimate_memory(recipe, world.size)
    image = needed.activations / at_once
    limit = room if room is not None else needed.total - 1
    fitting = int((ROOM * limit - needed.fixed) / image)
    fitting = max(1, min(fitting, at_once - 1))
    problems = [f"estimated need: {needed.fixed / 2**30:.1f} GiB + {image / 2**30:.2f} GiB for each image at a time"]
    if room is not None:
        problems.append(f"the device has {room / 2**30:.1f} GiB")
    advice = []
    share = train.batch // world.size
    if at_once > 1:
        parts = next(n for n in range(train.accumulate + 1, share + 1) if share % n == 0 and share // n <= fitting)
        smaller = world.size * train.accumulate * fitting
        advice.append(f"--set train.accumulate={parts} takes {share // parts} at a time (batch norm then sees fewer)")
        advice.append(f"--set train.batch={smaller} trains on smaller batches")
    if train.precision != "bf16":
        advice.append("--set train.precision=bf16 halves most activations")
    if at_once == 1:
        advice.append("a smaller model.size or model.ngf needs less")
    return UserError(f"out of memory at {where}: {at_once} at a time", problems=problems, hint="; ".join(advice))
