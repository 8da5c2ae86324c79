"""Perceptual loss: L1 between feature maps of a fixed ImageNet classifier (Johnson et al., ECCV 2016)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import UserError
from .losses import FeaturePair, l1
from .pretrained import cached_file, fetch_state, read_state, select_state

Network = Literal["vgg19", "vgg16", "squeezenet"]
NETWORKS: tuple[Network, ...] = get_args(Network)
URLS: Mapping[Network, str] = {
    "vgg19": "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
    "vgg16": "https://download.pytorch.org/models/vgg16-397923af.pth",
    "squeezenet": "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
}
# VGG19: the paper's weights, which VGG16 takes over for the same taps. SqueezeNet's activations are much larger, so
# each tap is divided by its mean activation on photographs (16 facades at 256x256), and all taps have the same weight:
# the shallow ones carry colour best, and a weight of 1/32 would all but silence them. This is a choice of this project,
# not measured on its own.
VGG_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
TAP_WEIGHTS: Mapping[Network, tuple[float, ...]] = {
    "vgg19": VGG_WEIGHTS,
    "vgg16": VGG_WEIGHTS,
    "squeezenet": tuple(0.4 / mean for mean in (12.8, 23.5, 17.3, 9.6, 1.48)),
}


class Fire(nn.Module):
    """SqueezeNet's fire module: squeeze, then expand (Iandola et al., 2016)."""

    def __init__(self, fin: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(fin, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[N,fin,h,w] -> [N,2·expand,h,w]."""
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))


def vgg19_layers() -> tuple[list[nn.Module], tuple[int, ...]]:
    """Build the layers up to relu5_1; also return the indices of the five taps relu1_1 .. relu5_1."""
    return _vgg_layers((2, 2, 4, 4, 1))


def vgg16_layers() -> tuple[list[nn.Module], tuple[int, ...]]:
    """Build the layers up to relu5_1; also return the indices of the five taps relu1_1 .. relu5_1."""
    return _vgg_layers((2, 2, 3, 3, 1))


def _vgg_layers(depths: Sequence[int]) -> tuple[list[nn.Module], tuple[int, ...]]:
    """Build blocks of ``depths`` 3x3 convolutions (Simonyan and Zisserman, ICLR 2015, table 1)."""
    layers: list[nn.Module] = []
    taps, fin = [], 3
    for width, depth in zip((64, 128, 256, 512, 512), depths, strict=True):
        if layers:
            layers.append(nn.MaxPool2d(2))
        for i in range(depth):
            layers += [nn.Conv2d(fin, width, 3, padding=1), nn.ReLU()]
            fin = width
            if i == 0:
                taps.append(len(layers) - 1)
    return layers, tuple(taps)


def squeezenet_layers() -> tuple[list[nn.Module], tuple[int, ...]]:
    """Build SqueezeNet 1.1; also return the indices of five taps: the first ReLU and the last Fire of each width."""
    pool = nn.MaxPool2d(3, 2, ceil_mode=True)
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool, Fire(64, 16, 64), Fire(128, 16, 64), pool]
    layers += [Fire(128, 32, 128), Fire(256, 32, 128), pool, Fire(256, 48, 192), Fire(384, 48, 192)]
    layers += [Fire(384, 64, 256), Fire(512, 64, 256)]
    return layers, (1, 4, 7, 10, 12)


LAYERS: Mapping[Network, Callable[[], tuple[list[nn.Module], tuple[int, ...]]]] = {
    "vgg19": vgg19_layers,
    "vgg16": vgg16_layers,
    "squeezenet": squeezenet_layers,
}


class PerceptualLoss(nn.Module):
    """Perceptual loss: L1 between five feature maps, weighted by TAP_WEIGHTS.

    VGG19 and VGG16 take images in [-1,1] as they are, as in the paper's code; for SqueezeNet they are normalized with
    the ImageNet mean and standard deviation that it was trained with.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        layers, self.taps = LAYERS[network]()
        self.tap_weights = TAP_WEIGHTS[network]
        self.features = nn.Sequential(*layers)
        self.features.load_state_dict(select_state(self.features, state))
        normalize = network == "squeezenet"
        mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if normalize else ((0.5,) * 3, (0.5,) * 3)
        # images in [-1,1] are (x + 1) / 2 in [0,1]
        self.register_buffer("mean", 2 * torch.tensor(mean).view(1, 3, 1, 1) - 1)
        self.register_buffer("std", 2 * torch.tensor(std).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    def forward(self, fake: Tensor, real: Tensor) -> Tensor:
        """Images [N,3,H,W] in [-1,1] -> scalar loss; no gradient for ``real``."""
        return self.distance(self.compare(fake, real))

    def compare(self, fake: Tensor, real: Tensor) -> FeaturePair:
        """Feature maps of images [N,3,H,W] in [-1,1]; no gradient for ``real``."""
        with torch.no_grad():
            targets = self.maps(real)
        return self.maps(fake), targets

    def distance(self, pair: FeaturePair) -> Tensor:
        """L1 between the maps, weighted by TAP_WEIGHTS."""
        terms = [weight * l1(f, t) for weight, f, t in zip(self.tap_weights, *pair, strict=True)]
        return torch.stack(terms).sum()

    def gram(self, pair: FeaturePair) -> Tensor:
        """L1 between the Gram matrices of the maps (Gatys et al., CVPR 2016), averaged over the taps.

        A map is divided by the photo's root mean square first, so that the taps count alike, and a matrix of C channels
        by sqrt(C).
        """
        terms = []
        for f, t in zip(*pair, strict=True):
            scale = t.square().mean().sqrt() + 1e-6
            terms.append(l1(_gram_matrix(f / scale), _gram_matrix(t / scale)))
        return torch.stack(terms).mean()

    def maps(self, x: Tensor) -> Sequence[Tensor]:
        """Images [N,3,H,W] in [-1,1] -> the five feature maps [N,C,h,w]."""
        x = (x - self.mean) / self.std
        maps = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.taps:
                maps.append(x)
        return maps


def _gram_matrix(x: Tensor) -> Tensor:
    """[N,C,h,w] -> [N,C,C]: mean products of channels, whose place does not count."""
    flat = x.flatten(2)
    matrix: Tensor = torch.bmm(flat, flat.mT) / (flat.shape[2] * flat.shape[1] ** 0.5)
    return matrix


def is_fetched(network: Network) -> bool:
    """Whether torch's download cache holds the network already."""
    return cached_file(URLS[network]).is_file()


def load_perceptual(network: Network, weights: Path | None = None) -> PerceptualLoss:
    """Load the loss with weights from a local file (.pth or .safetensors), or downloaded once from torch's URLs.

    Raises UserError if the file is missing, the download fails, or the weights are those of another network.
    """
    if weights is not None:
        state = read_state(weights, "loss.perceptual_weights")
    else:
        try:
            state = fetch_state(URLS[network])
        except (OSError, RuntimeError) as e:
            raise UserError(
                f"the {network} weights could not be fetched from {URLS[network]} ({e})",
                hint="download the file elsewhere and pass --set loss.perceptual_weights=FILE, or use "
                "--set loss.perceptual_network=none",
            ) from e
    try:
        return PerceptualLoss(network, state)
    except KeyError as e:
        raise UserError(f"{weights or URLS[network]}: not the {network} network: {e.args[0]}") from e
