"""A compact segmentation network: a residual U-Net (Ronneberger et al., 2015) with pixel coordinates as input."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .card import SegmenterArchitecture

MEAN, STD = 0.45, 0.27  # approximately those of photographs in 0..1, for all three channels


class SegmentationNet(nn.Module):
    """Logits of each class for pictures of any size.

    The first convolution halves the resolution, and so does each further level. The decoder adds the levels, as in a
    feature pyramid, so that it is as light as the encoder. The lowest level is gated by its own mean (squeeze and
    excitation), which is also the picture's feature vector. Row and column are two more input channels in [-1,1], as
    position carries information: sky is above, shops are below.
    """

    def __init__(self, arch: SegmenterArchitecture, num_classes: int) -> None:
        super().__init__()
        self.arch = arch
        widths = [arch.width * m for m in arch.multipliers]
        self.stem = _conv(5, widths[0], stride=2)
        before = [widths[0], *widths[:-1]]
        self.encoder = nn.ModuleList(
            ResidualBlock(fin, fout, stride=1 if i == 0 else 2)
            for i, (fin, fout) in enumerate(zip(before, widths, strict=True))
        )
        self.gate = nn.Linear(widths[-1], widths[-1])
        below = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.reduce = nn.ModuleList(_conv(fin, fout, kernel=1) for fin, fout in below)
        self.decoder = nn.ModuleList(ResidualBlock(fout, fout) for _, fout in below)
        self.head = nn.Conv2d(widths[0], num_classes, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures float [N,3,H,W] in [0,1] -> logits float32 [N,K,H,W]."""
        levels = self._encode(pictures)
        x = levels.pop()
        x = x * (2 * torch.sigmoid(self.gate(x.mean((2, 3)))))[:, :, None, None]
        for reduce, block in zip(self.reduce, self.decoder, strict=True):
            level = levels.pop()
            x = F.interpolate(reduce(x), size=level.shape[-2:], mode="bilinear", align_corners=False)
            x = block(F.relu(x) + level)
        logits = self.head(x).float()
        return F.interpolate(logits, size=pictures.shape[-2:], mode="bilinear", align_corners=False)

    def features(self, pictures: Tensor) -> Tensor:
        """Pictures float [N,3,H,W] in [0,1] -> mean of the lowest level, float32 [N,D]."""
        return self._encode(pictures)[-1].float().mean((2, 3))

    def _encode(self, pictures: Tensor) -> list[Tensor]:
        n, _, height, width = pictures.shape
        rows = torch.linspace(-1, 1, height, device=pictures.device, dtype=pictures.dtype)
        columns = torch.linspace(-1, 1, width, device=pictures.device, dtype=pictures.dtype)
        place = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).expand(n, 2, height, width)
        x = torch.cat([(pictures - MEAN) / STD, place], 1)
        x = F.relu(self.stem(x.contiguous(memory_format=torch.channels_last)))
        levels = []
        for block in self.encoder:
            x = block(x)
            levels.append(x)
        return levels


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut (He et al., 2016)."""

    def __init__(self, fin: int, fout: int, stride: int = 1) -> None:
        super().__init__()
        self.first = _conv(fin, fout, stride=stride)
        self.second = _conv(fout, fout)
        self.stride = stride
        self.shortcut = _conv(fin, fout, kernel=1) if fin != fout or stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """[N,fin,h,w] -> [N,fout,h/stride,w/stride], rounded up."""
        y = self.second(F.relu(self.first(x)))
        if self.shortcut is not None:
            x = F.avg_pool2d(x, self.stride, ceil_mode=True) if self.stride > 1 else x
            x = self.shortcut(x)
        return F.relu(x + y)


def _conv(fin: int, fout: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Build a convolution with batch norm; a stride of 2 rounds odd sizes up."""
    convolution = nn.Conv2d(fin, fout, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(fout))
