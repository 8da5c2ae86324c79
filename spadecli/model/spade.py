"""The SPADE layer (section 3.1, equation 1), and where to find its other forms.

:meth:`SPADE.forward` is the plain form, as in the paper: convolutions of one-hot planes. Every other form computes the
same function, faster in some setting; ``tests/model/test_parity.py`` compares all of them with this one:

=====================================  =================================================================
``windows/modulate.py``                training: once per distinct label window, with gradients
``windows/tables.py``                  inference: scale and shift of each distinct window, norm folded in
``cpu/generator.py``                   inference: the generator on these tables, in torch operations or
``kernels/kernels.cpp``                in C++, one build per instruction set
``weights/folding.py``                 the norm folded into the convolution that computes gamma and beta
``backends/onnx_export.py``            the generator as a graph for ONNX Runtime and TensorRT
``model/tiling.py``                    any of these on a part of a large map
=====================================  =================================================================
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.architecture import Norm
from ..core.sizes import Size
from ..windows.modulate import at_pixels, gamma_beta_of_windows, is_cheaper, modulate
from ..windows.segments import TrainingWindows
from .layers import feature_norm
from .semantic import SemanticMap


class SPADE(nn.Module):
    """Spatially-adaptive normalization: norm(x) · (1 + gamma(map)) + beta(map) (section 3.1, equation 1).

    The semantic map, nearest-resized to x, goes through a shared convolution and ReLU. One convolution of the result
    computes gamma and beta; the first half of its outputs is gamma.
    """

    def __init__(self, channels: int, semantic_channels: int, hidden: int, kernel: int, norm: Norm) -> None:
        super().__init__()
        self.norm = feature_norm(norm, channels)
        self.shared = nn.Conv2d(semantic_channels, hidden, kernel, padding=kernel // 2)
        self.gamma_beta = nn.Conv2d(hidden, 2 * channels, kernel, padding=kernel // 2)

    def modulation(self, semantic: SemanticMap, size: Size, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return gamma and beta, each [M,C,h,w]. They depend on the semantic map alone."""
        windows = self._windows(semantic, size)
        if windows is not None:
            values = gamma_beta_of_windows(self.shared, self.gamma_beta, windows, semantic.num_classes, dtype)
            return at_pixels(values, windows, len(semantic), size)
        hidden = F.relu(self.shared(semantic.planes(size, dtype)))
        gamma, beta = self.gamma_beta(hidden).chunk(2, dim=1)
        return gamma, beta

    def forward(self, x: Tensor, semantic: SemanticMap, slope: float = 1) -> Tensor:
        """x [M·S,C,h,w], with row m·S+s for sample s of map m -> the same shape.

        slope: slope of a leaky ReLU that follows, computed in the same step; 1 for none.
        """
        size, masks = (x.shape[2], x.shape[3]), len(semantic)
        windows = self._windows(semantic, size)
        if windows is not None and x.shape[0] == masks:
            values = gamma_beta_of_windows(self.shared, self.gamma_beta, windows, semantic.num_classes, x.dtype)
            return modulate(x, self.norm, values, windows, slope)
        normed = self.norm(x)
        gamma, beta = self.modulation(semantic, size, x.dtype)
        if x.shape[0] == masks:
            out = torch.addcmul(beta, normed, 1 + gamma)
        else:
            grouped = normed.unflatten(0, (masks, x.shape[0] // masks))
            out = torch.addcmul(beta.unsqueeze(1), grouped, 1 + gamma.unsqueeze(1)).flatten(0, 1)
        return out if slope == 1 else F.leaky_relu(out, slope)

    def _windows(self, semantic: SemanticMap, size: Size) -> TrainingWindows | None:
        """Return the windows to compute by, or None if convolutions are cheaper for this layer."""
        windows = semantic.windows(size, self.shared.kernel_size[0])
        if windows is None or semantic.modulation == "fast":
            return windows
        return windows if is_cheaper(windows.share, self.shared, self.gamma_beta) else None


class PlainNorm(nn.Module):
    """Norm with learned scale and shift that ignores the map: the baseline of the comparison in section 4.4."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.norm = feature_norm(norm, channels, affine=True)

    def forward(self, x: Tensor, semantic: SemanticMap, slope: float = 1) -> Tensor:
        """x [N,C,h,w] -> the same shape; ``slope`` as in :class:`SPADE`."""
        out: Tensor = self.norm(x)
        return out if slope == 1 else F.leaky_relu(out, slope)
