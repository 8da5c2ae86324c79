"""What a training run will be, before it is started: its settings and their sources, its size, its memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from ..core.recipe import Recipe
from ..model import losses
from ..model.encoder import reparameterize
from ..model.perceptual import PerceptualLoss, squeezenet_layers, vgg19_layers
from ..model.semantic import SemanticMap
from ..model.trainer import build_networks

Setting = tuple[str, Any, str]


@dataclass(frozen=True)
class Memory:
    """Estimated bytes of one training step on its device.

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
        return self.weights + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True)
class TrainPlan:
    """A run as it would be. ``pairs``, ``steps`` and ``steps_per_epoch`` are None where they need data not there.

    settings: (key, value, source) of every value; missing: what is wrong with the data, in one line, or "".
    """

    run_dir: Path
    origin: str
    settings: tuple[Setting, ...]
    parameters: dict[str, int]
    memory: Memory
    pairs: int | None
    steps: int | None
    steps_per_epoch: float | None
    missing: str


def count_parameters(recipe: Recipe) -> dict[str, int]:
    """Trained values of each network."""
    with torch.device("meta"):
        generator, encoder, discriminator = build_networks(recipe)
    networks = {"generator": generator, "encoder": encoder, "discriminator": discriminator}
    return {name: _size(m) for name, m in networks.items() if m is not None}


def estimate_memory(recipe: Recipe) -> Memory:
    """Memory of a step, from a forward pass of one batch that computes shapes only."""
    with FakeTensorMode():
        generator, encoder, discriminator = build_networks(recipe)
        perceptual = _perceptual(recipe)
        generating = [m for m in (generator, encoder) if m is not None]
        fixed = [perceptual] if perceptual is not None else []
        semantic, photo, eps = _shapes(recipe)
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=recipe.train.precision == "bf16")
        saved = _SavedBytes([*generating, discriminator, *fixed])
        with saved, autocast:
            z = eps if recipe.model.uses_z else None
            if encoder is not None:
                z = reparameterize(*encoder(photo), eps)
            fake = generator(semantic, z)
            losses.feature_matching(*discriminator(semantic, fake, photo))
            if perceptual is not None:
                perceptual(fake, photo)
    trained = sum(map(_size, [*generating, discriminator]))
    held = trained + sum(map(_size, [*generating, *fixed]))
    return Memory(weights=4 * held, gradients=4 * trained, optimizer=8 * trained, activations=saved.total)


class _SavedBytes(saved_tensors_hooks):
    """Counts the bytes that autograd keeps, each storage once, without the networks' own parameters."""

    def __init__(self, networks: list[nn.Module]) -> None:
        self.total = 0
        # holding on to the tensors keeps their storages' addresses from being used again
        self._seen = {t.untyped_storage()._cdata: t for m in networks for t in m.parameters()}
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


def _shapes(recipe: Recipe) -> tuple[SemanticMap, Tensor, Tensor]:
    """Semantic map, photos and noise of one batch, without values."""
    batch, (height, width), labels = recipe.train.batch, recipe.model.size, recipe.labels
    channels = torch.empty(batch, height, width, dtype=torch.int64)
    edges = torch.empty(batch, height, width) if labels.instances else None
    photo = torch.empty(batch, 3, height, width)
    eps = torch.empty(batch, recipe.model.z_dim)
    return SemanticMap(channels, edges, labels.num_classes, "plain"), photo, eps


def _size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
