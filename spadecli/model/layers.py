"""Basic layers: convolutions with spectral norm, and parameter-free feature norms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..compute.autograd import first_order_only
from ..core.architecture import Norm

EPS = 1e-5
MOMENTUM = 0.1


class SpectralConv2d(nn.Conv2d):
    """A convolution whose weight is divided by its largest singular value (Miyato et al., ICLR 2018).

    Training takes one step of power iteration per forward pass; evaluation divides by u^T W v with the
    stored u and v. So does training while ``iterates`` is False: the micro-batches of a step share one weight.
    Computed in the weight's own precision, even under autocast: half-precision power iteration drifts.
    """

    iterates = True
    weight_u: Tensor
    weight_v: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, padding: int = 0, bias: bool = True
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, padding, bias=bias)
        rows = self.weight.flatten(1)
        self.register_buffer("weight_u", F.normalize(torch.randn(rows.shape[0]), dim=0))
        self.register_buffer("weight_v", F.normalize(torch.randn(rows.shape[1]), dim=0))

    @torch.no_grad()
    def power_iteration(self, steps: int = 1) -> Tensor:
        """Move u and v towards the first singular vectors; return the singular value u^T W v."""
        rows = _rows_as_stored(self.weight)
        for _ in range(steps):
            v = F.normalize(rows.mT @ self.weight_u, dim=0)
            image = rows @ v
            self.weight_u.copy_(F.normalize(image, dim=0))
        self.weight_v.copy_(_shaped(v, self.weight).flatten())
        return self.weight_u @ image

    def effective_weight(self) -> Tensor:
        """Return the weight used in the convolution: weight / sigma."""
        with torch.autocast(self.weight.device.type, enabled=False):
            if self.training and self.iterates:
                sigma = self.power_iteration()
            else:
                with torch.no_grad():
                    sigma = self.weight_u @ (self.weight.flatten(1) @ self.weight_v)
            weight: Tensor = _DivideBySigma.apply(self.weight, self.weight_u, self.weight_v, sigma)  # type: ignore[no-untyped-call]
            return weight

    def forward(self, x: Tensor) -> Tensor:
        """[N,in,H,W] -> [N,out,h,w]."""
        out: Tensor = self._conv_forward(x, self.effective_weight(), self.bias)
        return out


class _DivideBySigma(torch.autograd.Function):
    """weight / sigma with sigma = u^T W v, u and v constant. Hand-written, as it runs on every weight in each step."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, u: Tensor, v: Tensor, sigma: Tensor) -> Tensor:
        # clones: another forward pass may update the buffers before this one's backward pass
        ctx.save_for_backward(weight, u.clone(), v.clone(), sigma)
        return weight / sigma

    @staticmethod
    @first_order_only
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        weight, u, v, sigma = ctx.saved_tensors
        rows = _rows_as_stored(weight)
        of_rows = _rows_as_stored(gradient.contiguous(memory_format=_format(weight)))
        # dL/dW = G / sigma - <G, W> / sigma^2 · u v^T
        out = of_rows * rows
        inner = out.sum()
        out = torch.div(of_rows, sigma, out=out).addr_(u * (-inner / sigma.square()), _as_stored(v, weight))
        return _shaped(out, weight), None, None, None


def _format(weight: Tensor) -> torch.memory_format:
    channels_last = weight.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


def _rows_as_stored(weight: Tensor) -> Tensor:
    """View [O,I,k,k] as a matrix of O rows with columns in memory order: copying every weight would cost more than the
    power iteration itself."""
    return weight.permute(0, 2, 3, 1).flatten(1) if _format(weight) == torch.channels_last else weight.flatten(1)


def _as_stored(v: Tensor, weight: Tensor) -> Tensor:
    """Reorder v [I·k·k] like the columns of :func:`_rows_as_stored`."""
    if _format(weight) != torch.channels_last:
        return v
    return v.view(weight.shape[1:]).permute(1, 2, 0).flatten()


def _shaped(rows: Tensor, weight: Tensor) -> Tensor:
    """Invert :func:`_rows_as_stored`, for all rows or a single one."""
    fin, height, width = weight.shape[1:]
    if _format(weight) != torch.channels_last:
        return rows.view(-1, fin, height, width)
    return rows.view(-1, height, width, fin).permute(0, 3, 1, 2)


def convolve_all(layer: nn.Conv2d, xs: Sequence[Tensor]) -> list[Tensor]:
    """Apply the layer to each of xs with the same weight, so that spectral norm takes one power iteration in all."""
    weight = layer.effective_weight() if isinstance(layer, SpectralConv2d) else layer.weight
    return [layer._conv_forward(x, weight, layer.bias) for x in xs]


def conv(
    in_channels: int,
    out_channels: int,
    kernel: int,
    *,
    spectral: bool,
    stride: int = 1,
    padding: int = 0,
    bias: bool = True,
) -> nn.Conv2d:
    """Build a convolution, spectrally normalized or plain."""
    if spectral:
        return SpectralConv2d(in_channels, out_channels, kernel, stride, padding, bias)
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=bias)


def feature_norm(kind: Norm, channels: int, affine: bool = False) -> nn.Module:
    """Build a batch or instance norm, without parameters unless ``affine``."""
    if kind == "batch":
        return nn.BatchNorm2d(channels, eps=EPS, momentum=MOMENTUM, affine=affine)
    return InstanceNorm2d(channels, eps=EPS, affine=affine)


def instance_norm(x: Tensor) -> Tensor:
    """Apply instance norm without parameters, [N,C,H,W] -> the same shape."""
    return with_plain_gradient(F.instance_norm(x, eps=EPS))


def with_plain_gradient(normed: Tensor) -> Tensor:
    """Return the output of an instance norm, with its gradient made contiguous if the batch is a single image.

    For a single image torch's backward pass misreads the layout of a channels-last gradient and returns a wrong one.
    """
    if normed.requires_grad and normed.shape[0] == 1:
        normed.register_hook(lambda gradient: gradient.contiguous())  # type: ignore[no-untyped-call]
    return normed


class InstanceNorm2d(nn.InstanceNorm2d):
    """torch's instance norm, with the correct gradient for a single image too."""

    def forward(self, input: Tensor) -> Tensor:
        """[N,C,H,W] -> the same shape."""
        return with_plain_gradient(super().forward(input))
