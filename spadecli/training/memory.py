"""The memory of a training step: an estimate before the run, and advice when memory runs out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from ..core.errors import UserError
from ..core.ranks import Ranks
from ..core.recipe import AUGMENT_NUMBERS, Recipe
from ..model import losses
from ..model.augment import Augmentation
from ..model.cutting import cut
from ..model.encoder import reparameterize
from ..model.perceptual import LAYERS, PerceptualLoss
from ..model.semantic import BatchClasses, SemanticMap
from .setup import describe_batch
from .step import build_networks

ROOM = 0.9  # usable share of a device's memory: libraries and workspaces take the rest


@dataclass(frozen=True)
class Memory:
    """Estimated bytes of one training step on the device of one process.

    weights: of all networks, the averages (EMA) and the perceptual network. gradients: of the trained networks.
    optimizer: Adam's two moments. activations: what the forward pass keeps for the backward pass, with SPADE layers
    computed by plain convolutions.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """Sum of all parts, without libraries and workspaces."""
        return self.fixed + self.activations

    @property
    def fixed(self) -> int:
        """The part that does not depend on the number of images."""
        return self.weights + self.gradients + self.optimizer


def estimate_memory(recipe: Recipe, processes: int = 1) -> Memory:
    """Estimate the memory of a step by running the forward pass of one micro-batch on shapes alone.

    Unless every step trains on windows, it is that of a step on whole images.
    """
    images = max(1, recipe.train.batch // (processes * recipe.train.accumulate))
    counted = max(2, images)  # batch norm refuses a single image of one pixel
    with FakeTensorMode():
        generator, encoder, discriminator = build_networks(recipe)
        perceptual = _perceptual(recipe)
        generating = [m for m in (generator, encoder) if m is not None]
        fixed = [perceptual] if perceptual is not None else []
        semantic, photo, eps, at = _shapes(recipe, counted)
        numbers = torch.empty(counted, AUGMENT_NUMBERS)
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=recipe.train.precision == "bf16")
        saved = _SavedBytes([*generating, discriminator, *fixed])
        with saved, autocast:
            z = eps if recipe.model.uses_z else None
            if encoder is not None:
                mu, logvar = encoder(photo)
                z = reparameterize(mu, logvar, eps)
            fake = generator(semantic, z, at)
            if at is not None:
                photo = cut(photo, at, semantic.size)
            augmentation = Augmentation(recipe.discriminator.augment, 0.0, fake.device)
            judged = augmentation(semantic, [fake, photo.to(fake.dtype)], numbers)
            verdict = discriminator(judged[0], *judged[1], _batch_classes(recipe, counted))
            if verdict.maps is not None:
                losses.feature_matching(*verdict.maps)
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
        # holding the tensors keeps the addresses of their storages from being reused
        self._seen: dict[int, Tensor] = {t.untyped_storage()._cdata: t for m in networks for t in m.parameters()}
        super().__init__(self._count, lambda tensor: tensor)

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen[storage._cdata] = tensor
            self.total += storage.nbytes()
        return tensor


def _perceptual(recipe: Recipe) -> PerceptualLoss | None:
    """Build the perceptual loss without its weights."""
    network = recipe.loss.perceptual_network
    if network == "none" or not recipe.loss.uses_perceptual_network:
        return None
    layers, _ = LAYERS[network]()
    return PerceptualLoss(network, nn.Sequential(*layers).state_dict())


def _shapes(recipe: Recipe, batch: int) -> tuple[SemanticMap, Tensor, Tensor, Tensor | None]:
    """Make semantic map, photos, noise and places of windows of ``batch`` images, without values."""
    train, labels = recipe.train, recipe.labels
    window = train.window if train.window_share == 1 else None
    channels = torch.empty(batch, *(window or recipe.model.size), dtype=torch.int64)
    edges = torch.empty(channels.shape) if labels.instances else None
    photo = torch.empty(batch, 3, *recipe.model.size)
    at = torch.empty(batch, 2, dtype=torch.int64) if window else None
    eps = torch.empty(batch, recipe.model.z_dim)
    return SemanticMap(channels, edges, labels.num_classes, "plain"), photo, eps, at


def _batch_classes(recipe: Recipe, batch: int) -> BatchClasses:
    """Make what a discriminator is told of the classes of ``batch`` images, without values."""
    classes = recipe.labels.num_classes
    mixed = torch.empty(batch, classes, dtype=torch.bool) if recipe.discriminator.mixes_labels else None
    return BatchClasses(torch.empty(classes), mixed)


def _size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@contextmanager
def memory_advice(recipe: Recipe, device: torch.device, ranks: Ranks, staged: bool = False) -> Iterator[None]:
    """Turn running out of memory in the block into a UserError that says what to lower, and by how much.

    staged: ``recipe`` is that of a stage (see core/stages.py), which may have a batch of its own.
    """
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as e:
        if not isinstance(e, torch.OutOfMemoryError) and "can't allocate memory" not in str(e):
            raise
        room = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else None
        raise out_of_memory(recipe, ranks, room, staged) from e


def out_of_memory(recipe: Recipe, ranks: Ranks, room: int | None, staged: bool = False) -> UserError:
    """Build the error for a step that exceeds ``room`` bytes (None: unknown), with settings estimated to fit."""
    train, (height, width) = recipe.train, recipe.model.size
    at_once = train.batch // (ranks.size * train.accumulate)
    where = f"train.batch = {describe_batch(recipe, ranks)}, size {height}x{width}, {train.precision}"
    needed = estimate_memory(recipe, ranks.size)
    image = needed.activations / at_once
    limit = room if room is not None else needed.total - 1
    fitting = int((ROOM * limit - needed.fixed) / image)
    fitting = max(1, min(fitting, at_once - 1))
    problems = [f"estimated need: {needed.fixed / 2**30:.1f} GiB + {image / 2**30:.2f} GiB per image at a time"]
    if room is not None:
        problems.append(f"the device has {room / 2**30:.1f} GiB")
    advice = []
    share = train.batch // ranks.size
    if at_once > 1:
        parts = next(n for n in range(train.accumulate + 1, share + 1) if share % n == 0 and share // n <= fitting)
        smaller = ranks.size * train.accumulate * fitting
        advice.append(f"--set train.accumulate={parts} takes {share // parts} at a time (batch norm then sees fewer)")
        change = f"batch = {smaller} in this [[stage]]" if staged else f"--set train.batch={smaller}"
        advice.append(f"{change} trains on smaller batches")
    if train.precision != "bf16":
        advice.append("--set train.precision=bf16 halves most activations")
    if at_once == 1:
        advice.append("a smaller model.size or model.ngf needs less")
    return UserError(f"out of memory at {where}: {at_once} at a time", problems=problems, hint="; ".join(advice))
