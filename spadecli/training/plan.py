"""What a training run will be, before it is started: its settings and their sources, its size, its memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from ..core.errors import UserError
from ..core.ranks import World, check_split
from ..core.recipe import Recipe
from ..core.report import Report, Silent
from ..data.split import split_pairs
from ..model import losses
from ..model.encoder import reparameterize
from ..model.perceptual import PerceptualLoss, squeezenet_layers, vgg19_layers
from ..model.semantic import SemanticMap
from .init_from import open_start
from .memory import describe_batch, process_device
from .setup import (
    TrainOptions,
    check_tensorboard,
    count_parameters,
    open_data,
    resolve_recipe,
    run_folder,
    run_record,
    unseen_classes,
)
from .step import build_networks
from .validate import check_validation
from .warnings import never_seen

Setting = tuple[str, Any, str]


@dataclass(frozen=True)
class Memory:
    """Estimated bytes of one training step on the device of one process.

    weights: of all networks, the averages (EMA) and the perceptual network; gradients; optimizer: Adam's two
    moments; activations: what the forward pass keeps for the backward one, by plain convolutions.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """Sum of all parts; libraries and workspaces come on top."""
        return self.fixed + self.activations

    @property
    def fixed(self) -> int:
        """What does not depend on the number of images."""
        return self.weights + self.gradients + self.optimizer


@dataclass(frozen=True)
class TrainPlan:
    """A run as it would be. ``pairs``, ``steps`` and ``steps_per_epoch`` are None where they need data not there.

    settings: (key, value, source) of every value; batch: how it is split over processes; missing: what is wrong
    with the data, in one line, or "".
    validation: names of the pairs kept out for it; held_out: how many pairs nothing sees before the final score.
    notes: what --init carries over; warnings: what is wrong with the data, but no mistake.
    """

    run_dir: Path
    origin: str
    settings: tuple[Setting, ...]
    parameters: dict[str, int]
    memory: Memory
    batch: str
    pairs: int | None
    steps: int | None
    steps_per_epoch: float | None
    missing: str
    validation: tuple[str, ...] = ()
    held_out: int = 0
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def plan_training(options: TrainOptions, report: Report | None = None) -> TrainPlan:
    """What :func:`spadecli.commands.train.command.train` would do; writes nothing.

    Raises UserError as it does, but not where the packed data are missing: the plan then says so.
    """
    resolved = resolve_recipe(options, report or Silent())
    recipe = resolved.recipe
    world = World.from_environment()
    check_split(recipe.train.batch, recipe.train.accumulate, world.size)
    run = run_folder(options, recipe)
    process_device(options.device, world)
    if options.tensorboard:
        check_tensorboard()
    check_validation(recipe, options.device)
    start = open_start(options.init, recipe, options.init_labels) if options.init else None
    pairs, steps, missing = None, recipe.train.steps, ""
    validation: tuple[str, ...] = ()
    held_out, unseen = 0, ""
    try:
        dataset, indices = open_data(resolved)
    except UserError as e:
        if Path(recipe.data.packed).is_file():
            raise
        missing = f"{e.message}: {e.hint}"
    else:
        pairs = len(indices)
        names = dataset.packed.names
        split = split_pairs(names, recipe)
        validation, held_out = tuple(names[i] for i in split.validation), len(split.held_out)
        unseen = never_seen(unseen_classes(dataset, indices))
        steps = run_record(run, resolved, options, dataset.packed.sha256, pairs).steps
    return TrainPlan(
        run_dir=run.path,
        origin=resolved.origin,
        settings=tuple(resolved.settings()),
        parameters=count_parameters(recipe),
        memory=estimate_memory(recipe, world.size),
        batch=describe_batch(recipe, world),
        pairs=pairs,
        steps=steps,
        steps_per_epoch=None if pairs is None else pairs / recipe.train.batch,
        missing=missing,
        validation=validation,
        held_out=held_out,
        notes=tuple(start.lines(recipe)) if start else (),
        warnings=(unseen,) if unseen else (),
    )


def estimate_memory(recipe: Recipe, processes: int = 1) -> Memory:
    """Memory of a step, from a forward pass of what a process takes at a time that computes shapes only."""
    images = max(1, recipe.train.batch // (processes * recipe.train.accumulate))
    counted = max(2, images)  # batch norm refuses a single image where it is one pixel large
    with FakeTensorMode():
        generator, encoder, discriminator = build_networks(recipe)
        perceptual = _perceptual(recipe)
        generating = [m for m in (generator, encoder) if m is not None]
        fixed = [perceptual] if perceptual is not None else []
        semantic, photo, eps = _shapes(recipe, counted)
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=recipe.train.precision == "bf16")
        saved = _SavedBytes([*generating, discriminator, *fixed])
        with saved, autocast:
            z = eps if recipe.model.uses_z else None
            if encoder is not None:
                mu, logvar = encoder(photo)
                z = reparameterize(mu, logvar, eps)
            fake = generator(semantic, z)
            losses.feature_matching(*discriminator(semantic, fake, photo))
            if perceptual is not None:
                perceptual(fake, photo)
    trained = sum(map(_size, [*generating, discriminator]))
    held = trained + sum(map(_size, [*generating, *fixed]))
    value = 8 if recipe.train.precision == "fp64" else 4
    activations = saved.total * images // counted * value // 4
    return Memory(value * held, value * trained, 2 * value * trained, activations)


class _SavedBytes(saved_tensors_hooks):
    """Counts the bytes that autograd keeps, each storage once, without the networks' own parameters."""

    def __init__(self, networks: list[nn.Module]) -> None:
        self.total = 0
        # holding on to the tensors keeps their storages' addresses from being used again
        self._seen: dict[int, Tensor] = {t.untyped_storage()._cdata: t for m in networks for t in m.parameters()}
        super().__init__(self._count, lambda tensor: tensor)

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen[storage._cdata] = tensor
            self.total += storage.nbytes()
        return tensor


def _perceptual(recipe: Recipe) -> PerceptualLoss | None:
    """The perceptual network without its weights."""
    network = recipe.loss.perceptual_network
    if network == "none" or not recipe.loss.perceptual:
        return None
    layers, _ = vgg19_layers() if network == "vgg19" else squeezenet_layers()
    return PerceptualLoss(network, nn.Sequential(*layers).state_dict())


def _shapes(recipe: Recipe, batch: int) -> tuple[SemanticMap, Tensor, Tensor]:
    """Semantic map, photos and noise of ``batch`` images, without values."""
    (height, width), labels = recipe.model.size, recipe.labels
    channels = torch.empty(batch, height, width, dtype=torch.int64)
    edges = torch.empty(batch, height, width) if labels.instances else None
    photo = torch.empty(batch, 3, height, width)
    eps = torch.empty(batch, recipe.model.z_dim)
    return SemanticMap(channels, edges, labels.num_classes, "plain"), photo, eps


def _size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
