"""A SPADE layer in inference as a table: its scale and shift, norm folded in, for each distinct label window."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels import native
from .find import Windows

COLUMNS_AT_ONCE = 1 << 22  # floats of tap products in memory at a time
FILTERED, FILTERING = 36 / 16, 108  # Winograd's products per pixel, and those of transforming the weights
MANY_WINDOWS = 0.6  # windows per pixel above which torch's convolution of all pixels is cheaper
FEW_PATCHES = 0.7  # patches per window up to which products per tap are cheaper


class ModulationTable:
    """Scale and shift of one SPADE layer, so that the layer is x·scale + shift (of the normed x if not folded).

    The first convolution of one-hot planes is a sum of one row of weights per tap (two at an edge). The second is
    linear in the hidden rows: their products with each tap are computed once per distinct patch, and the k² products
    of each window are summed. If windows repeat so seldom that it is less work, every pixel is convolved by Winograd's
    minimal filtering instead: in the smallest maps, and in noise.

    shared: the layer's first convolution. scale_shift: weight [2·C,hidden,k,k] and bias [2·C] of its second one, with
    the norm folded in (see weights/folding.py). use_kernels: compute with kernels/native.py, otherwise with torch.
    """

    def __init__(
        self,
        shared: nn.Conv2d,
        scale_shift: tuple[Tensor, Tensor],
        num_classes: int,
        device: torch.device,
        use_kernels: bool,
    ) -> None:
        self.has_edges = shared.in_channels > num_classes
        self.num_classes, self.use_kernels = num_classes, use_kernels
        weight, bias = scale_shift
        self.channels = len(bias) // 2
        first = shared.weight.detach()
        self.hidden, self.taps = first.shape[0], first.shape[2] * first.shape[3]
        # [k², planes + 1, hidden]: the last row of each tap is zeros, for pixels outside the map and without an edge
        self.planes = F.pad(first.flatten(2).permute(2, 1, 0), (0, 0, 0, 1)).contiguous().to(device)
        self.hidden_bias = _bias(shared).to(device)
        self.bias = bias.to(device, copy=True)
        taps = weight.flatten(2).permute(2, 1, 0)  # [k², hidden, 2·C]
        self.weight = native.pack(taps.flatten(0, 1)) if use_kernels else taps.contiguous().to(device)

    def __call__(self, windows: Windows) -> Tensor:
        """Compute scale and shift of each distinct window: [w, 2·C], scale first."""
        few = len(windows.patches) <= FEW_PATCHES * len(windows.windows)
        if self.use_kernels:
            hidden = native.hidden(windows.patches, self.planes, self.hidden_bias, self.has_edges)
            if self._filtering_is_cheaper(windows):
                return self._by_filtering(hidden, windows)
            return native.rows(hidden, windows.windows, self.weight, self.bias, few)
        hidden = self._hidden(windows)
        if len(windows.windows) > MANY_WINDOWS * windows.window_of_pixel.numel():
            return self._by_pixels(hidden, windows)
        return self._by_taps(hidden, windows) if few else self._by_windows(hidden, windows)

    def _filtering_is_cheaper(self, windows: Windows) -> bool:
        """Whether Winograd filtering of every pixel takes fewer products than computing the distinct windows."""
        pixels, distinct = windows.window_of_pixel.numel(), min(len(windows.patches), len(windows.windows))
        return self.taps == 9 and pixels * FILTERED + FILTERING < distinct * self.taps

    def _by_filtering(self, hidden: Tensor, windows: Windows) -> Tensor:
        maps = self._at_pixels(hidden, windows)
        return self._of_windows(native.convolve(maps, self.weight, self.bias, by_taps=True), windows)

    def _at_pixels(self, hidden: Tensor, windows: Windows) -> Tensor:
        """Gather the hidden activation at each pixel, [M,hidden,h,w] channels-last."""
        if windows.every_pixel:
            at_pixels = hidden[1:]
        else:
            centre = windows.windows[:, self.taps // 2].contiguous()
            at_pixels = hidden.index_select(0, centre.index_select(0, windows.window_of_pixel.flatten()))
        return at_pixels.view(*windows.window_of_pixel.shape, self.hidden).permute(0, 3, 1, 2)

    def _of_windows(self, maps: Tensor, windows: Windows) -> Tensor:
        """Select the values of each window from feature maps [M,2·C,h,w]: [w, 2·C]."""
        rows = maps.permute(0, 2, 3, 1).reshape(-1, 2 * self.channels)
        return rows if windows.every_pixel else rows.index_select(0, windows.pixel_of_window)

    def _hidden(self, windows: Windows) -> Tensor:
        """Compute the hidden activation of each distinct patch, [n + 1, hidden]; row 0 is zeros, for the outside."""
        codes, outside = windows.patches.long(), self.planes.shape[1] - 1
        if self.has_edges:
            label, edge = (codes - 1) // 2, (codes - 1) % 2 == 1
            planes = torch.cat([label, torch.where(edge, self.num_classes, outside)], 1)
            planes[:, : self.taps][codes == 0] = outside
            planes[:, self.taps :][codes == 0] = outside
        else:
            planes = torch.where(codes == 0, outside, codes - 1)
        tap = torch.arange(planes.shape[1], device=codes.device) % self.taps * self.planes.shape[1]
        sums = F.embedding_bag(planes + tap, self.planes.flatten(0, 1), mode="sum")
        return F.pad(sums.add_(self.hidden_bias).relu_(), (0, 0, 1, 0))

    def _by_taps(self, hidden: Tensor, windows: Windows) -> Tensor:
        places = windows.windows.long() + torch.arange(self.taps, device=hidden.device) * len(hidden)
        step = max(64, COLUMNS_AT_ONCE // (len(hidden) * self.taps))
        parts = []
        for first in range(0, 2 * self.channels, step):
            columns = self.weight[:, :, first : first + step]
            products = torch.matmul(hidden, columns).flatten(0, 1)
            parts.append(F.embedding_bag(places, products, mode="sum"))
        return torch.cat(parts, 1).add_(self.bias)

    def _by_pixels(self, hidden: Tensor, windows: Windows) -> Tensor:
        """Convolve every pixel, for maps in which hardly any two pixels share a window."""
        k = round(self.taps**0.5)
        weight = self.weight.permute(2, 1, 0).reshape(-1, self.hidden, k, k)
        weight = weight.contiguous(memory_format=torch.channels_last)
        maps = F.conv2d(self._at_pixels(hidden, windows), weight, self.bias, padding=k // 2)
        return self._of_windows(maps, windows)

    def _by_windows(self, hidden: Tensor, windows: Windows) -> Tensor:
        scale_shift = hidden.new_empty(len(windows.windows), 2 * self.channels)
        step = max(1, COLUMNS_AT_ONCE // (self.taps * self.hidden))
        for first in range(0, len(scale_shift), step):
            part = slice(first, first + step)
            columns = hidden.index_select(0, windows.windows[part].flatten()).view(-1, self.taps * self.hidden)
            torch.addmm(self.bias, columns, self.weight.flatten(0, 1), out=scale_shift[part])
        return scale_shift


def _bias(conv: torch.nn.Conv2d) -> Tensor:
    if conv.bias is None:
        return conv.weight.new_zeros(conv.out_channels)
    return conv.bias.detach().clone()
