"""Small TorchScript extractors, made where a test needs them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn


class Tiny(nn.Module):
    """Mean, deviation and coarse layout of the channels: 18 features."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.float() / 255
        grid = nn.functional.adaptive_avg_pool2d(y, [2, 2]).flatten(1)
        return torch.cat([y.mean([2, 3]), y.std([2, 3]), grid], 1)


class NanOnBlack(Tiny):
    """Tiny, but a black picture has no features."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        return y.mean([2, 3]) / y.amax([1, 2, 3]).unsqueeze(1)


class NotFeatures(nn.Module):
    """Answers with a picture."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class LikeInception(nn.Module):
    """Called as NVIDIA's file is; features are ramps of the channel means."""

    def __init__(self, dimensions: int = 2048) -> None:
        super().__init__()
        self.register_buffer("ramp", torch.linspace(0, 1, dimensions))

    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        assert img.dtype == torch.uint8
        level = img.float().mean([1, 2, 3]) / 255
        return level.unsqueeze(1) * self.ramp if return_features else level.unsqueeze(1)


class Ramp(nn.Module):
    """The stand-in's layers: pictures float32 [N,3,299,299] in -1..1 to features."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ramp", torch.linspace(0, 1, 2048))

    def forward(self, x: Tensor) -> Tensor:
        return (x.mean([1, 2, 3]).unsqueeze(1) * self.ramp)[:, :, None, None]


class LikeInceptionWithLayers(nn.Module):
    """As NVIDIA's file: its layers can be called on pictures that were resized outside."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = Ramp()

    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        assert img.dtype == torch.uint8
        x = self.layers((img.float() - 128) / 128).flatten(1)
        return x if return_features else x[:, :1]


def save(path: Path, module: nn.Module) -> Path:
    torch.jit.script(module).save(str(path))
    return path
