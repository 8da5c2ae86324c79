"""SPADE's modulation computed once for each distinct label neighbourhood: the same function, and gradients.

The plain form is in :meth:`spadecli.model.norm.SPADE.modulation`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .neighbourhoods import Groups, Neighbourhoods


def gamma_beta_rows(
    shared: torch.nn.Conv2d, gamma_beta: torch.nn.Conv2d, found: Neighbourhoods, num_classes: int, dtype: torch.dtype
) -> Tensor:
    """What ``gamma_beta(relu(shared(planes)))`` is in each distinct neighbourhood: [rows, 2·C]."""
    # the first convolution of one-hot planes is a sum of one row of its weights for each tap
    table = _code_table(shared.weight, num_classes)
    tap = torch.arange(table.shape[0], device=table.device) * table.shape[1]
    hidden = F.embedding_bag(found.codes + tap, table.flatten(0, 1), mode="sum")
    if shared.bias is not None:
        hidden = hidden + shared.bias
    hidden = F.relu(hidden).to(dtype)
    # the second is one matrix product
    columns: Tensor = _GatherWindows.apply(hidden, found.windows, found.entries_of_window)  # type: ignore[no-untyped-call]
    return F.linear(columns, gamma_beta.weight.permute(0, 2, 3, 1).flatten(1), gamma_beta.bias)


def modulate(x: Tensor, rows: Tensor, found: Neighbourhoods) -> Tensor:
    """x · (1 + gamma) + beta for x [M,C,h,w] and ``rows`` [rows, 2·C], gamma then beta."""
    gamma, beta = rows.to(x.dtype).chunk(2, 1)
    masks, channels, height, width = x.shape
    flat = x.permute(0, 2, 3, 1).reshape(-1, channels)
    out: Tensor = _Modulate.apply(flat, (1 + gamma).contiguous(), beta.contiguous(), found)  # type: ignore[no-untyped-call]
    return out.view(masks, height, width, channels).permute(0, 3, 1, 2)


def at_pixels(rows: Tensor, found: Neighbourhoods, masks: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """gamma and beta of every pixel, each [M,C,h,w], from ``rows`` [rows, 2·C]."""
    gamma, beta = rows.index_select(0, found.row).view(masks, *size, -1).permute(0, 3, 1, 2).chunk(2, 1)
    return gamma, beta


def _code_table(weight: Tensor, num_classes: int) -> Tensor:
    """What each code adds to the first convolution at each tap: [O,I,k,k] -> [k², codes + 1, O].

    Row 0 is outside: zeros. Then the classes, each without and with an edge where there is an edge plane.
    """
    taps = weight.flatten(2).permute(2, 1, 0)
    classes = taps[:, :num_classes]
    if taps.shape[1] > num_classes:
        classes = torch.stack([classes, classes + taps[:, num_classes:]], 2).flatten(1, 2)
    return F.pad(classes, (0, 0, 1, 0))


class _GatherWindows(torch.autograd.Function):
    """Rows of values [n,C] side by side: windows [rows,k²] of 1..n, 0 standing for zeros -> [rows, k²·C]."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, windows: Tensor, entries: Groups) -> Tensor:
        ctx.entries, ctx.channels = entries, values.shape[1]
        padded = F.pad(values, (0, 0, 1, 0))
        return padded.index_select(0, windows.flatten()).view(len(windows), -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.entries.sum(gradient.reshape(-1, ctx.channels)), None, None


class _Modulate(torch.autograd.Function):
    """x [P,C] times and plus the row of each pixel. Full-size scales live no longer than the product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, found: Neighbourhoods) -> Tensor:
        ctx.save_for_backward(x, scale)
        ctx.found = found
        shifts = shift.index_select(0, found.row)
        return torch.addcmul(shifts, x, scale.index_select(0, found.row), out=shifts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, scale = ctx.saved_tensors
        found: Neighbourhoods = ctx.found
        shift_gradient = found.pixels_of_row.sum(gradient)
        scale_gradient = found.pixels_of_row.sum(gradient * x)
        return scale.index_select(0, found.row).mul_(gradient), scale_gradient, shift_gradient, None
