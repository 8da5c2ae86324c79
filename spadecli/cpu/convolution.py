"""The convolutions of a SPADE block, each fused with the modulation before it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels import native
from ..model.generator import LEAK

VALUES_AT_ONCE = 1 << 20  # values of a feature map modulated at a time, so that they stay in the cache


@dataclass(frozen=True)
class ComputeSettings:
    """Where and how the fast form computes: by the kernels of kernels/native.py or by torch.

    dtype: of the feature maps; tables are always float32.
    """

    device: torch.device
    dtype: torch.dtype
    use_kernels: bool


class StartLinear:
    """The linear layer from z to the first feature map, in channels-last order."""

    def __init__(self, linear: nn.Linear, grid: tuple[int, int], settings: ComputeSettings) -> None:
        self.grid, self.use_kernels = grid, settings.use_kernels
        cells = grid[0] * grid[1]
        weight = linear.weight.detach().view(-1, cells, linear.in_features).transpose(0, 1).flatten(0, 1)
        self.bias = linear.bias.detach().view(-1, cells).T.flatten().to(settings.device, copy=True)
        self.weight = native.pack(weight.T) if self.use_kernels else weight.to(settings.device).contiguous()

    def __call__(self, z: Tensor) -> Tensor:
        """z [N,Z] -> [N,C,h,w] channels-last, in float32."""
        linear = native.linear if self.use_kernels else F.linear
        x = linear(z, self.weight, self.bias)
        return x.view(len(z), *self.grid, -1).permute(0, 3, 1, 2)


class ModulatedConv:
    """conv(leaky(up(x)·scale + shift)) + residual, 3x3."""

    def __init__(self, conv: nn.Conv2d, settings: ComputeSettings) -> None:
        weight = conv.weight.detach()
        bias = conv.bias.detach() if conv.bias is not None else weight.new_zeros(len(weight))
        self.bias = bias.to(settings.device, settings.dtype, copy=True)
        self.use_kernels = settings.use_kernels
        self.weight = native.pack(weight.flatten(1).T) if self.use_kernels else _for_torch(weight, settings)

    def __call__(
        self,
        x: Tensor,
        scale_shift: Tensor,
        window_of_pixel: Tensor,
        upsample: bool,
        residual: Tensor | None,
        reuse: bool = False,
    ) -> Tensor:
        """x [M·S,C,h,w] channels-last, scale_shift [w,2·C], window_of_pixel int32 [M,H,W] -> [M·S,O,H,W].

        residual [M·S,O,..] is upsampled if it is smaller. ``reuse``: its memory may be overwritten.
        """
        if self.use_kernels:
            modulation = native.Modulation(scale_shift, window_of_pixel, 2 if upsample else 1, LEAK)
            return native.convolve(x, self.weight, self.bias, modulation, residual, reuse)
        out = F.conv2d(modulate(x, scale_shift, window_of_pixel, upsample, LEAK), self.weight, self.bias, padding=1)
        if residual is None:
            return out
        if residual.shape != out.shape:
            residual = F.interpolate(residual, scale_factor=2.0, mode="nearest")
        return out.add_(residual)


class ModulatedShortcut:
    """conv(up(x)·scale + shift), 1x1 without bias."""

    def __init__(self, conv: nn.Conv2d, settings: ComputeSettings) -> None:
        self.channels = conv.out_channels
        self.use_kernels = settings.use_kernels
        weight = conv.weight.detach()
        if self.use_kernels:
            self.weight = native.pack(weight.flatten(1).T)
        else:
            self.weight = _for_torch(weight, settings)

    def __call__(self, x: Tensor, scale_shift: Tensor, window_of_pixel: Tensor, upsample: bool) -> Tensor:
        """x [M·S,C,h,w] channels-last, scale_shift [w,2·C], window_of_pixel int32 [M,H,W] -> [M·S,O,H,W]."""
        if self.use_kernels:
            return native.shortcut(x, scale_shift, window_of_pixel, 2 if upsample else 1, self.weight, self.channels)
        return F.conv2d(modulate(x, scale_shift, window_of_pixel, upsample, 1.0), self.weight)


class ImageConv:
    """conv(leaky(x)), 3x3, to the image's channels."""

    def __init__(self, conv: nn.Conv2d, settings: ComputeSettings) -> None:
        weight = conv.weight.detach()
        assert conv.bias is not None
        self.bias = conv.bias.detach().to(settings.device, settings.dtype, copy=True)
        self.use_kernels = settings.use_kernels
        if self.use_kernels:
            self.weight = native.pack(weight.flatten(2).permute(1, 2, 0).flatten(1))
        else:
            self.weight = _for_torch(weight, settings)

    def __call__(self, x: Tensor) -> Tensor:
        """x [N,C,H,W] channels-last, whose memory may be overwritten -> [N,3,H,W]."""
        if self.use_kernels:
            return native.image(x, LEAK, self.weight, self.bias)
        return F.conv2d(F.leaky_relu_(x, LEAK), self.weight, self.bias, padding=1)


def _for_torch(weight: Tensor, settings: ComputeSettings) -> Tensor:
    return weight.to(settings.device, settings.dtype, memory_format=torch.channels_last, copy=True)


def modulate(x: Tensor, scale_shift: Tensor, window_of_pixel: Tensor, upsample: bool, leak: float) -> Tensor:
    """Compute leaky(up(x)·scale + shift) for x [M·S,C,h,w] channels-last; a slope ``leak`` of 1 is none."""
    channels, (masks, height, width) = x.shape[1], window_of_pixel.shape
    samples = x.shape[0] // masks
    scale, shift = (half.to(x.dtype).contiguous() for half in scale_shift.chunk(2, 1))
    flat = window_of_pixel.flatten()
    out = x.new_empty(x.shape[0], height, width, channels)
    band = max(1, VALUES_AT_ONCE // (width * channels * 2)) * 2
    for m in range(masks):
        for y in range(0, height, band):
            end = min(height, y + band)
            part = flat[(m * height + y) * width : (m * height + end) * width]
            scales, shifts = scale.index_select(0, part), shift.index_select(0, part)
            for n in range(m * samples, (m + 1) * samples):
                source = x[n : n + 1, :, y // 2 : end // 2] if upsample else x[n : n + 1, :, y:end]
                if upsample:
                    source = F.interpolate(source, scale_factor=2.0, mode="nearest")
                target = out[n, y:end].view(-1, channels)
                torch.addcmul(shifts, source.permute(0, 2, 3, 1).reshape(-1, channels), scales, out=target)
                if leak != 1.0:
                    F.leaky_relu_(target, leak)
    return out.permute(0, 3, 1, 2)
