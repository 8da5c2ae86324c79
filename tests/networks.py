"""Small networks of every form, with fresh weights."""

from pathlib import Path

import torch
from torch import nn

from spadecli.core.architecture import Architecture
from spadecli.core.labelspace import LabelSpace
from spadecli.model.encoder import ImageEncoder
from spadecli.model.generator import Generator
from spadecli.model.init import initialize
from spadecli.model.pixel_noise import PixelNoise
from spadecli.weights.card import Card
from spadecli.weights.file import folded_state_dict, save_weights

CLASSES = [{"name": "a", "value": 7}, {"name": "b", "value": [0, 9]}, {"name": "u", "value": 255}]
LABELS = LabelSpace(name="odd", classes=CLASSES, unknown="u")
SMALL = {"size": (32, 64), "ngf": 2, "z_dim": 5, "hidden": 4, "norm": "instance"}


def torch_weights(folder: Path, arch: Architecture, labels: LabelSpace) -> Path:
    generator = Generator(arch, labels.semantic_channels, spectral=False)
    encoder = ImageEncoder(arch, spectral=False) if arch.has_encoder else None
    for i, network in enumerate((generator, encoder)):
        if network is not None:
            initialize(network, i)
            visible(network, i)
            random_statistics(network)
    path = folder / "w.safetensors"
    states = folded_state_dict(generator), folded_state_dict(encoder) if encoder else None
    save_weights(path, Card(name="w", architecture=arch, labels=labels), *states)
    return path


def visible(network: nn.Module, seed: int) -> None:
    """Weights that neither shrink nor grow what passes, so that every input shows in the images."""
    random = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, 0, layer.weight[0].numel() ** -0.5, generator=random)
            if layer.bias is not None:
                nn.init.uniform_(layer.bias, -0.1, 0.1, generator=random)
        if isinstance(layer, PixelNoise):
            nn.init.uniform_(layer.weight, -0.2, 0.2, generator=random)


def random_statistics(network: nn.Module) -> None:
    """What batch norms have seen: 0 and 1, as they begin, would hide them."""
    random = torch.Generator().manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-2, 2, generator=random)
            layer.running_var.uniform_(0.1, 3, generator=random)


# more than one cell at the start, where the map is coarsest
FORM_SIZE = (64, 128)
FORMS = {
    "encoder": {},
    "map": {"latent": "map"},
    "edges": {"latent": "noise", "instances": True},
    "edges of the map": {"latent": "map", "instances": True},
    "batch norm": {"norm": "batch"},
    "concat": {"conditioning": "concat", "norm": "batch"},
    "concat, instance norm": {"conditioning": "concat", "instances": True},
    "concat of the map": {"conditioning": "concat", "latent": "map"},
    "another size": {"at": (96, 64)},
    "more upsampling, 5x5": {"upsampling": "most", "size": (256, 256), "kernel": 5},
    "1x1": {"kernel": 1},
}
