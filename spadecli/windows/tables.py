"""A SPADE layer as a table: its scale and shift, norm folded in, for each distinct label window."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..cpu.convolution import How
from ..kernels import native
from ..model.layers import SPADE
from ..weights.folding import can_fold, folded_modulation
from .find import Windows

COLUMNS_AT_ONCE = 1 << 22  # floats of tap products that are in memory at a time
FILTERED, FILTERING = 36 / 16, 108  # products a pixel of Winograd's filtering, and those that its weights cost
MANY_WINDOWS = 0.6  # windows of windows per pixel from which on torch's convolution of all pixels is cheaper
FEW_WINDOWS = 0.7  # windows per window of windows up to which products per tap are cheaper


class ModulationTable:
    """Scales and shifts of one SPADE layer, so that the layer is x·scale + shift (x normed, where not folded).

    The first convolution of one-hot planes is a sum of one row of weights a tap (two at an edge). The second is
    linear in the hidden rows: their products with each tap are made once per distinct window, and the k² of each
    window of windows added up. Where windows repeat so seldom that it is less work, a convolution by Winograd's
    filtering is computed at every pixel instead: in the smallest maps, and in noise.
    """

    def __init__(self, layer: SPADE, num_classes: int, how: How) -> None:
        self.is_folded = can_fold(layer)
        self.has_edges = layer.shared.in_channels > num_classes
        self.num_classes = num_classes
        self.channels = layer.gamma_beta.out_channels // 2
        shared = layer.shared.weight.detach()
        self.hidden, self.taps = shared.shape[0], shared.shape[2] * shared.shape[3]
        # [k², planes + 1, hidden]: the last row of each tap is zeros, for what is outside and has no edge
        self.planes = F.pad(shared.flatten(2).permute(2, 1, 0), (0, 0, 0, 1)).contiguous().to(how.device)
        self.bias = _bias(layer.shared).to(how.device)
        weight, bias = folded_modulation(layer)
        taps = weight.flatten(2).permute(2, 1, 0)  # [k², hidden, 2·C]
        self.bias_rows = bias.to(how.device, copy=True)
        self.use_kernels = how.use_kernels
        self.weight = native.pack(taps.flatten(0, 1)) if self.use_kernels else taps.contiguous().to(how.device)

    def __call__(self, found: Windows) -> Tensor:
        """Scale, then shift, of each distinct window of windows: [rows, 2·C]."""
        few = len(found.codes) <= FEW_WINDOWS * len(found.windows)
        if self.use_kernels:
            hidden = native.hidden(found.codes, self.planes, self.bias, self.has_edges)
            if self._filtering_is_cheaper(found):
                return self._by_filtering(hidden, found)
            return native.rows(hidden, found.windows, self.weight, self.bias_rows, few)
        hidden = self._hidden(found)
        if len(found.windows) > MANY_WINDOWS * found.row.numel():
            return self._by_pixels(hidden, found)
        return self._by_taps(hidden, found) if few else self._by_windows(hidden, found)

    def _filtering_is_cheaper(self, found: Windows) -> bool:
        """Whether Winograd's filtering at every pixel has fewer products than the distinct windows have."""
        pixels, distinct = found.row.numel(), min(len(found.codes), len(found.windows))
        return self.taps == 9 and pixels * FILTERED + FILTERING < distinct * self.taps

    def _by_filtering(self, hidden: Tensor, found: Windows) -> Tensor:
        maps = self._at_pixels(hidden, found)
        return self._of_rows(native.convolve(maps, self.weight, self.bias_rows, by_taps=True), found)

    def _at_pixels(self, hidden: Tensor, found: Windows) -> Tensor:
        """The hidden activation around each pixel, [M,hidden,h,w] channels-last."""
        if found.every:
            at_pixels = hidden[1:]
        else:
            centre = found.windows[:, self.taps // 2].contiguous()
            at_pixels = hidden.index_select(0, centre.index_select(0, found.row.flatten()))
        return at_pixels.view(*found.row.shape, self.hidden).permute(0, 3, 1, 2)

    def _of_rows(self, maps: Tensor, found: Windows) -> Tensor:
        """Of maps [M,2·C,h,w] the values of each window of windows: [rows, 2·C]."""
        rows = maps.permute(0, 2, 3, 1).reshape(-1, 2 * self.channels)
        return rows if found.every else rows.index_select(0, found.pixel)

    def _hidden(self, found: Windows) -> Tensor:
        """The hidden activation of each distinct window, after a row of zeros for what is outside: [n + 1, hidden]."""
        codes, outside = found.codes.long(), self.planes.shape[1] - 1
        if self.has_edges:
            label, edge = (codes - 1) // 2, (codes - 1) % 2 == 1
            planes = torch.cat([label, torch.where(edge, self.num_classes, outside)], 1)
            planes[:, : self.taps][codes == 0] = outside
            planes[:, self.taps :][codes == 0] = outside
        else:
            planes = torch.where(codes == 0, outside, codes - 1)
        tap = torch.arange(planes.shape[1], device=codes.device) % self.taps * self.planes.shape[1]
        sums = F.embedding_bag(planes + tap, self.planes.flatten(0, 1), mode="sum")
        return F.pad(sums.add_(self.bias).relu_(), (0, 0, 1, 0))

    def _by_taps(self, hidden: Tensor, found: Windows) -> Tensor:
        windows = found.windows.long() + torch.arange(self.taps, device=hidden.device) * len(hidden)
        step = max(64, COLUMNS_AT_ONCE // (len(hidden) * self.taps))
        parts = []
        for first in range(0, 2 * self.channels, step):
            columns = self.weight[:, :, first : first + step]
            products = torch.matmul(hidden, columns).flatten(0, 1)
            parts.append(F.embedding_bag(windows, products, mode="sum"))
        return torch.cat(parts, 1).add_(self.bias_rows)

    def _by_pixels(self, hidden: Tensor, found: Windows) -> Tensor:
        """The plain convolution, where hardly a window is another pixel's."""
        k = round(self.taps**0.5)
        weight = self.weight.permute(2, 1, 0).reshape(-1, self.hidden, k, k)
        weight = weight.contiguous(memory_format=torch.channels_last)
        maps = F.conv2d(self._at_pixels(hidden, found), weight, self.bias_rows, padding=k // 2)
        return self._of_rows(maps, found)

    def _by_windows(self, hidden: Tensor, found: Windows) -> Tensor:
        rows = hidden.new_empty(len(found.windows), 2 * self.channels)
        step = max(1, COLUMNS_AT_ONCE // (self.taps * self.hidden))
        for first in range(0, len(rows), step):
            part = slice(first, first + step)
            columns = hidden.index_select(0, found.windows[part].flatten()).view(-1, self.taps * self.hidden)
            torch.addmm(self.bias_rows, columns, self.weight.flatten(0, 1), out=rows[part])
        return rows


def _bias(conv: torch.nn.Conv2d) -> Tensor:
    if conv.bias is None:
        return conv.weight.new_zeros(conv.out_channels)
    return conv.bias.detach().clone()
