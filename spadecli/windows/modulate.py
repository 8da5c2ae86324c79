"""SPADE's modulation in training, computed once per distinct label window: the same function and gradients.

The plain form is :meth:`spadecli.model.spade.SPADE.forward`; model/spade.py lists all forms. Three things make this one
cheaper:

- The first convolution of one-hot planes is a sum of rows of its weights, and both convolutions are computed once
  per distinct window (:func:`gamma_beta_of_windows`).
- Batch norm, modulation and leaky ReLU are one step with a hand-written backward pass. It keeps the layer's input and
  output, which the convolutions around it keep anyway, and no full-size gamma and beta.
- When values are gathered per pixel, pixels are processed in pieces that fit in the processor's cache.

Only first derivatives exist; a second one raises an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..compute.autograd import first_order_only
from .segments import Segments, TrainingWindows

COST_OF_GATHERING = 800  # of one window, in products; measured on a CPU at 8x8 to 256x256, float32 and bfloat16
ELEMENTS_AT_ONCE = {"cpu": 1 << 18, "cuda": 1 << 27}  # elements of a full-size feature map per piece
ROWS_AT_ONCE = {"cpu": 1 << 11, "cuda": 1 << 16}  # rows of the matrix of windows per piece
WORTHWHILE_SHARE = 0.95


def is_worthwhile(share: float) -> bool:
    """Whether windows can be cheaper for any layer at this share of the pixels; :func:`is_cheaper` decides for one."""
    return share <= WORTHWHILE_SHARE


def is_cheaper(share: float, shared: nn.Conv2d, gamma_beta: nn.Conv2d) -> bool:
    """Whether a training step of a SPADE layer is cheaper by windows, if these are ``share`` of the pixels.

    The unit is the product of one pixel and tap with the hidden channels, forward and backward. The first convolution
    needs no gradient of its input, and by windows it costs next to nothing.
    """
    second = 3 * gamma_beta.out_channels
    return share * (second + COST_OF_GATHERING) < second + 2 * shared.in_channels


def gamma_beta_of_windows(
    shared: nn.Conv2d, gamma_beta: nn.Conv2d, windows: TrainingWindows, num_classes: int, dtype: torch.dtype
) -> Tensor:
    """Compute ``gamma_beta(relu(shared(planes)))`` in each distinct window: [w, 2·C] of ``dtype``."""
    with torch.autocast(windows.window_of_pixel.device.type, enabled=False):
        table = _code_table(shared.weight, num_classes)
        hidden: Tensor = _SumCodeRows.apply(table.flatten(0, 1), windows)  # type: ignore[no-untyped-call]
        if shared.bias is not None:
            hidden = hidden + shared.bias
        hidden = F.relu(hidden).to(dtype)
        weight = gamma_beta.weight.permute(0, 2, 3, 1).flatten(1).to(dtype)
        values: Tensor = _MultiplyWindows.apply(hidden, weight, windows)  # type: ignore[no-untyped-call]
        return values if gamma_beta.bias is None else values + gamma_beta.bias.to(dtype)


def at_pixels(gamma_beta: Tensor, windows: TrainingWindows, masks: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Gather gamma and beta of every pixel, each [M,C,h,w], from those of each window [w, 2·C]."""
    gamma, beta = (
        gamma_beta.index_select(0, windows.window_of_pixel).view(masks, *size, -1).permute(0, 3, 1, 2).chunk(2, 1)
    )
    return gamma, beta


def modulate(x: Tensor, norm: nn.Module, gamma_beta: Tensor, windows: TrainingWindows, slope: float) -> Tensor:
    """Compute leaky_relu(norm(x) · (1 + gamma) + beta) for x [M,C,h,w] and ``gamma_beta`` [w, 2·C], gamma first.

    A plain batch norm becomes part of the step. Any other norm (instance norm, synchronised batch norm) is called.
    """
    mean, inverse = _batch_statistics(norm, x)
    if mean is None:
        x = norm(x)
    batch_stats = norm.training and mean is not None
    masks, channels, height, width = x.shape
    flat = x.permute(0, 2, 3, 1).reshape(-1, channels)
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = _Modulate.apply(flat, gamma_beta, mean, inverse, windows, slope, batch_stats)  # type: ignore[no-untyped-call]
    return out.view(masks, height, width, channels).permute(0, 3, 1, 2)


@torch.no_grad()
def _batch_statistics(norm: nn.Module, x: Tensor) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Return mean and 1/sqrt(variance + eps) of each channel in a plain batch norm, and update its running statistics.

    (None, None) for any other norm, including subclasses, which may do more than this.
    """
    if type(norm) is not nn.BatchNorm2d or norm.affine or x.numel() == x.shape[1]:
        return None, None
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None or norm.momentum is None:
        return None, None
    if norm.training:
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        mean, variance = torch.batch_norm_update_stats(x, mean, variance, norm.momentum)
    return mean, (variance + norm.eps).rsqrt()


def _code_table(weight: Tensor, num_classes: int) -> Tensor:
    """Tabulate what each code adds to the first convolution at each tap: [O,I,k,k] -> [k², codes + 1, O].

    Row 0 is for pixels outside the map: zeros. Then the classes; with an edge plane, each without and with an edge.
    """
    taps = weight.flatten(2).permute(2, 1, 0)
    classes = taps[:, :num_classes]
    if taps.shape[1] > num_classes:
        classes = torch.stack([classes, classes + taps[:, num_classes:]], 2).flatten(1, 2)
    return F.pad(classes, (0, 0, 1, 0))


def _pieces(matrix: Tensor) -> Iterator[slice]:
    """Yield ranges of rows of a matrix to process at once."""
    length, width = matrix.shape
    step = max(1, ELEMENTS_AT_ONCE[matrix.device.type] // width)
    for begin in range(0, length, step):
        yield slice(begin, min(begin + step, length))


class _SumCodeRows(torch.autograd.Function):
    """Sum of the table's rows for the codes of each distinct patch: table [k²·(codes + 1), O] -> [n, O]."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, windows: TrainingWindows) -> Tensor:
        ctx.windows, ctx.shape = windows, table.shape
        return F.embedding_bag(windows.code_rows, table, mode="sum")

    @staticmethod
    @first_order_only
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        windows: TrainingWindows = ctx.windows
        table = gradient.new_zeros(ctx.shape)
        places = windows.places_of_code_row
        patches = Segments(places.order // windows.code_rows.shape[1], places.pieces, places.firsts)
        return table.index_copy_(0, windows.used_code_rows.long(), patches.sum(gradient)), None


class _MultiplyWindows(torch.autograd.Function):
    """A k x k convolution at one pixel of each distinct window.

    hidden [n,H] of each patch and weight [O, k²·H] -> [w, O]; index 0 in ``windows.windows`` stands for zeros.
    The matrix of windows (the patches of each side by side) is not saved: the backward pass gathers it again in pieces.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, windows: TrainingWindows) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.windows = windows
        padded = F.pad(hidden, (0, 0, 1, 0))
        out = hidden.new_empty(len(windows.windows), len(weight))
        step = ROWS_AT_ONCE[out.device.type]
        for part, out_part in zip(torch.split(windows.windows, step), torch.split(out, step), strict=True):
            torch.mm(_side_by_side(padded, part), weight.T, out=out_part)
        return out

    @staticmethod
    @first_order_only
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden, weight = ctx.saved_tensors
        windows: TrainingWindows = ctx.windows
        gradient = gradient.contiguous()
        padded = F.pad(hidden, (0, 0, 1, 0))
        columns = gradient @ weight
        of_hidden = windows.places_of_patch.sum(columns.view(-1, hidden.shape[1])).to(hidden.dtype)
        of_weight = torch.zeros_like(weight)
        step = ROWS_AT_ONCE[hidden.device.type]
        for part, of_part in zip(torch.split(windows.windows, step), torch.split(gradient, step), strict=True):
            of_weight.addmm_(of_part.T, _side_by_side(padded, part))
        return of_hidden, of_weight, None


def _side_by_side(padded: Tensor, windows: Tensor) -> Tensor:
    return padded.index_select(0, windows.flatten()).view(len(windows), -1)


class _Modulate(torch.autograd.Function):
    """leaky_relu((x - mean) · inverse · (1 + gamma) + beta), with gamma and beta from the window of each pixel.

    x [P,C]; gamma_beta [w,2·C]; mean and inverse [C], or None for 0 and 1. ``batch_stats``: they are statistics of x
    itself, and the gradient includes them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gamma_beta: Tensor,
        mean: Tensor | None,
        inverse: Tensor | None,
        windows: TrainingWindows,
        slope: float,
        batch_stats: bool,
    ) -> Tensor:
        gamma, beta = gamma_beta.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, 1)
        scale, shift = gamma + 1, beta
        if mean is not None and inverse is not None:
            scale = scale * inverse
            shift = torch.addcmul(beta, scale, mean, value=-1)
        scale_shift = torch.cat([scale, shift], 1).to(x.dtype)
        out = torch.empty_like(x)
        channels = x.shape[1]
        for piece in _pieces(x):
            gathered = scale_shift.index_select(0, windows.window_of_pixel[piece])
            torch.addcmul(gathered[:, channels:], x[piece], gathered[:, :channels], out=out[piece])
            if slope != 1:
                F.leaky_relu_(out[piece], slope)
        ctx.save_for_backward(x, out, scale_shift, mean, inverse)
        ctx.windows, ctx.slope, ctx.batch_stats = windows, slope, batch_stats
        return out

    @staticmethod
    @first_order_only
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, out, scale_shift, mean, inverse = ctx.saved_tensors
        windows: TrainingWindows = ctx.windows
        scale = scale_shift[:, : x.shape[1]].contiguous()
        # backward through the leaky ReLU, then sums over each window's pixels for its shift and its scale
        of_x, centred = torch.empty_like(x), torch.empty_like(x)
        for piece in _pieces(x):
            torch.ops.aten.leaky_relu_backward(gradient[piece], out[piece], ctx.slope, True, grad_input=of_x[piece])
            torch.mul(x[piece] if mean is None else x[piece] - mean, of_x[piece], out=centred[piece])
        of_shift, of_scale = windows.pixels_of_window.sum(of_x), windows.pixels_of_window.sum(centred)
        del centred
        of_gamma_beta = torch.cat([of_scale if inverse is None else of_scale * inverse, of_shift], 1)

        # backward through scale and shift, and through the statistics of x: their gradients are sums over the windows
        through_stats = None
        if ctx.batch_stats:
            by_mean = -(scale * of_shift).sum(0) / len(x)
            by_spread = -(scale * of_scale).sum(0) / len(x) * inverse.square()
            through_stats = by_mean - by_spread * mean, by_spread
        for piece in _pieces(x):
            of_x[piece].mul_(scale.index_select(0, windows.window_of_pixel[piece]))
            if through_stats is not None:
                of_x[piece].add_(torch.addcmul(through_stats[0], x[piece], through_stats[1]))
        return of_x, of_gamma_beta.to(scale_shift.dtype), None, None, None, None, None
