"""SPADE's modulation computed once for each distinct label neighbourhood: the same function, and gradients.

The plain form is in :meth:`spadecli.model.layers.SPADE.forward`. Three things make this one cheaper:

- The first convolution of one-hot planes is a sum of rows of its weights, and both convolutions are computed once
  for each distinct neighbourhood (:func:`gamma_beta_rows`).
- Batch norm, modulation and leaky ReLU are one step with its backward pass written by hand. It keeps the layer's
  input and output, which the convolutions around it keep anyway, and no full-size gamma and beta.
- Where values are gathered for each pixel, pixels are taken in pieces that stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .neighbourhoods import Groups, Neighbourhoods

COST_OF_GATHERING = 800  # of a window, as products; measured on two CPU cores at 8x8 to 256x256, float32 and bfloat16
ELEMENTS_AT_ONCE = {"cpu": 1 << 18, "cuda": 1 << 27}  # of a full-size feature map
ROWS_AT_ONCE = {"cpu": 1 << 11, "cuda": 1 << 16}  # of the matrix of windows


def is_cheaper(share: float, shared: nn.Conv2d, gamma_beta: nn.Conv2d) -> bool:
    """Whether a training step of a SPADE layer is cheaper by neighbourhood, these being ``share`` of the pixels.

    Counted are products of a pixel with one tap's hidden channels, forward and backward. The first convolution needs
    no gradient of its input, and disappears.
    """
    second = 3 * gamma_beta.out_channels
    return share * (second + COST_OF_GATHERING) < second + 2 * shared.in_channels


def gamma_beta_rows(
    shared: nn.Conv2d, gamma_beta: nn.Conv2d, found: Neighbourhoods, num_classes: int, dtype: torch.dtype
) -> Tensor:
    """What ``gamma_beta(relu(shared(planes)))`` is in each distinct neighbourhood: [rows, 2·C] of ``dtype``."""
    with torch.autocast(found.row.device.type, enabled=False):
        table = _code_table(shared.weight, num_classes)
        hidden: Tensor = _SumEntries.apply(table.flatten(0, 1), found)  # type: ignore[no-untyped-call]
        if shared.bias is not None:
            hidden = hidden + shared.bias
        hidden = F.relu(hidden).to(dtype)
        weight = gamma_beta.weight.permute(0, 2, 3, 1).flatten(1).to(dtype)
        rows: Tensor = _MultiplyWindows.apply(hidden, weight, found)  # type: ignore[no-untyped-call]
        return rows if gamma_beta.bias is None else rows + gamma_beta.bias.to(dtype)


def at_pixels(rows: Tensor, found: Neighbourhoods, masks: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """gamma and beta of every pixel, each [M,C,h,w], from ``rows`` [rows, 2·C]."""
    gamma, beta = rows.index_select(0, found.row).view(masks, *size, -1).permute(0, 3, 1, 2).chunk(2, 1)
    return gamma, beta


def modulate(x: Tensor, norm: nn.Module, rows: Tensor, found: Neighbourhoods, slope: float) -> Tensor:
    """leaky_relu(norm(x) · (1 + gamma) + beta) for x [M,C,h,w] and ``rows`` [rows, 2·C], gamma then beta.

    Batch norm is taken into the step. Any other norm (instance norm, synchronised batch norm) is called as it is.
    """
    mean, inverse = _batch_statistics(norm, x)
    if mean is None:
        x = norm(x)
    moving = norm.training and mean is not None
    masks, channels, height, width = x.shape
    flat = x.permute(0, 2, 3, 1).reshape(-1, channels)
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = _Modulate.apply(flat, rows, mean, inverse, found, slope, moving)  # type: ignore[no-untyped-call]
    return out.view(masks, height, width, channels).permute(0, 3, 1, 2)


@torch.no_grad()
def _batch_statistics(norm: nn.Module, x: Tensor) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Mean and 1/sqrt(variance + eps) of each channel that a plain batch norm uses, its running statistics updated.

    Two times None where the norm is another: a class of its own may do more than this.
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
    """What each code adds to the first convolution at each tap: [O,I,k,k] -> [k², codes + 1, O].

    Row 0 is outside: zeros. Then the classes, each without and with an edge where there is an edge plane.
    """
    taps = weight.flatten(2).permute(2, 1, 0)
    classes = taps[:, :num_classes]
    if taps.shape[1] > num_classes:
        classes = torch.stack([classes, classes + taps[:, num_classes:]], 2).flatten(1, 2)
    return F.pad(classes, (0, 0, 1, 0))


def _pieces(matrix: Tensor) -> Iterator[slice]:
    """Ranges of rows of a matrix that are worked on at once."""
    length, width = matrix.shape
    step = max(1, ELEMENTS_AT_ONCE[matrix.device.type] // width)
    for begin in range(0, length, step):
        yield slice(begin, min(begin + step, length))


class _SumEntries(torch.autograd.Function):
    """The table's rows that each distinct window of codes adds up: table [k²·(codes + 1), O] -> [n, O]."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, found: Neighbourhoods) -> Tensor:
        ctx.found, ctx.shape = found, table.shape
        return F.embedding_bag(found.entries, table, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        found: Neighbourhoods = ctx.found
        table = gradient.new_zeros(ctx.shape)
        places = found.places_of_used
        windows = Groups(places.order // found.entries.shape[1], places.pieces, places.groups)
        return table.index_copy_(0, found.used.long(), windows.sum(gradient)), None


class _MultiplyWindows(torch.autograd.Function):
    """A k x k convolution at one pixel of each distinct window of windows.

    hidden [n,H], where 0 of ``found.windows`` stands for zeros, and weight [O, k²·H] -> [rows, O].
    The windows' values side by side are made anew in the backward pass, a piece at a time.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, found: Neighbourhoods) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.found = found
        padded = F.pad(hidden, (0, 0, 1, 0))
        out = hidden.new_empty(len(found.windows), len(weight))
        step = ROWS_AT_ONCE[out.device.type]
        for windows, rows in zip(torch.split(found.windows, step), torch.split(out, step), strict=True):
            torch.mm(_side_by_side(padded, windows), weight.T, out=rows)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden, weight = ctx.saved_tensors
        found: Neighbourhoods = ctx.found
        gradient = gradient.contiguous()
        padded = F.pad(hidden, (0, 0, 1, 0))
        columns = gradient @ weight
        of_hidden = found.places_of_window.sum(columns.view(-1, hidden.shape[1])).to(hidden.dtype)
        of_weight = torch.zeros_like(weight)
        step = ROWS_AT_ONCE[hidden.device.type]
        for windows, of_rows in zip(torch.split(found.windows, step), torch.split(gradient, step), strict=True):
            of_weight.addmm_(of_rows.T, _side_by_side(padded, windows))
        return of_hidden, of_weight, None


def _side_by_side(padded: Tensor, windows: Tensor) -> Tensor:
    return padded.index_select(0, windows.flatten()).view(len(windows), -1)


class _Modulate(torch.autograd.Function):
    """leaky_relu((x - mean) · inverse · (1 + gamma) + beta), gamma and beta from the row of each pixel.

    x [P,C]; rows [R,2·C]; mean and inverse [C], or None for 0 and 1. ``moving``: they are x's own statistics, and
    the gradient goes through them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        rows: Tensor,
        mean: Tensor | None,
        inverse: Tensor | None,
        found: Neighbourhoods,
        slope: float,
        moving: bool,
    ) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        gamma, beta = rows.to(wide).chunk(2, 1)
        scale = gamma + 1
        if mean is not None and inverse is not None:
            scale = scale * inverse
            beta = torch.addcmul(beta, scale, mean, value=-1)
        both = torch.cat([scale, beta], 1).to(x.dtype)
        out = torch.empty_like(x)
        channels = x.shape[1]
        for piece in _pieces(x):
            found_both = both.index_select(0, found.row[piece])
            torch.addcmul(found_both[:, channels:], x[piece], found_both[:, :channels], out=out[piece])
            if slope != 1:
                F.leaky_relu_(out[piece], slope)
        ctx.save_for_backward(x, out, both, mean, inverse)
        ctx.found, ctx.slope, ctx.moving = found, slope, moving
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, out, both, mean, inverse = ctx.saved_tensors
        found: Neighbourhoods = ctx.found
        scale = both[:, : x.shape[1]].contiguous()
        # back through the leaky ReLU; what each row's pixels say about its shift and its scale
        of_x, centred = torch.empty_like(x), torch.empty_like(x)
        for piece in _pieces(x):
            torch.ops.aten.leaky_relu_backward(gradient[piece], out[piece], ctx.slope, True, grad_input=of_x[piece])
            torch.mul(x[piece] if mean is None else x[piece] - mean, of_x[piece], out=centred[piece])
        of_shift, of_scale = found.pixels_of_row.sum(of_x), found.pixels_of_row.sum(centred)
        del centred
        of_rows = torch.cat([of_scale if inverse is None else of_scale * inverse, of_shift], 1)

        # back through scale and shift, and through the statistics of x: their gradients are sums over the rows
        own = None
        if ctx.moving:
            by_mean = -(scale * of_shift).sum(0) / len(x)
            by_spread = -(scale * of_scale).sum(0) / len(x) * inverse.square()
            own = by_mean - by_spread * mean, by_spread
        for piece in _pieces(x):
            of_x[piece].mul_(scale.index_select(0, found.row[piece]))
            if own is not None:
                of_x[piece].add_(torch.addcmul(own[0], x[piece], own[1]))
        return of_x, of_rows.to(both.dtype), None, None, None, None, None
