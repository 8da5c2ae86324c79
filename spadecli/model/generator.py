"""The SPADE generator (section 3.2, figure 4, appendix A)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.architecture import Architecture
from .cutting import cut
from .layers import conv
from .pixel_noise import PixelNoise
from .semantic import SemanticMap
from .spade import SPADE, PlainNorm
from .tiling import Tile

LEAK = 0.2
START = ("fc.weight", "fc.bias")  # the layer that makes the first feature map of z: its size depends on the image's


class SPADEBlock(nn.Module):
    """Residual block with norms modulated by the semantic map (figure 4, left)."""

    def __init__(self, fin: int, fout: int, arch: Architecture, semantic_channels: int, spectral: bool) -> None:
        super().__init__()
        fmid = min(fin, fout)
        if arch.conditioning == "spade":
            norm: Callable[[int], nn.Module] = partial(
                SPADE, semantic_channels=semantic_channels, hidden=arch.hidden, kernel=arch.kernel, norm=arch.norm
            )
        else:
            norm = partial(PlainNorm, norm=arch.norm)
        self.norm_0, self.norm_1 = norm(fin), norm(fmid)
        self.conv_0 = conv(fin, fmid, 3, padding=1, spectral=spectral)
        self.conv_1 = conv(fmid, fout, 3, padding=1, spectral=spectral)
        self.norm_s = norm(fin) if fin != fout else None
        self.conv_s = conv(fin, fout, 1, bias=False, spectral=spectral) if fin != fout else None

    def forward(self, x: Tensor, semantic: SemanticMap) -> Tensor:
        """Feature map [M·S,fin,h,w] of S samples of M semantic maps -> [M·S,fout,h,w]."""
        shortcut = x
        if self.norm_s is not None and self.conv_s is not None:
            shortcut = self.conv_s(self.norm_s(x, semantic))
        x = self.conv_0(self.norm_0(x, semantic, LEAK))
        x = self.conv_1(self.norm_1(x, semantic, LEAK))
        return shortcut + x


class Generator(nn.Module):
    """The generator: semantic maps and latents z to images.

    spectral: build spectrally normalized convolutions, for training (default: as the architecture says); False builds
        plain ones, for the effective weights of weights files.
    """

    def __init__(self, arch: Architecture, semantic_channels: int, spectral: bool | None = None) -> None:
        super().__init__()
        self.arch, self.semantic_channels = arch, semantic_channels
        spectral = arch.spectral_norm if spectral is None else spectral
        widest = 16 * arch.ngf
        if arch.uses_z:
            height, width = arch.start_grid
            self.fc: nn.Module = nn.Linear(arch.z_dim, widest * height * width)
        else:
            self.fc = nn.Conv2d(semantic_channels, widest, 3, padding=1)
        # concatenate the map where the norms do not carry it; with latent "map" the input is computed from it already
        self.concat_input = arch.conditioning == "concat" and arch.uses_z
        first = widest + (semantic_channels if self.concat_input else 0)
        widths, self.upsample_before = arch.widths, arch.upsample_before
        fins = [first, *widths[:-1]]
        self.blocks = nn.ModuleList(
            SPADEBlock(fin, fout, arch, semantic_channels, spectral) for fin, fout in zip(fins, widths, strict=True)
        )
        self.noises = nn.ModuleList(PixelNoise(i, width) for i, width in enumerate(widths) if arch.pixel_noise)
        self.conv_img = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(
        self,
        semantic: SemanticMap,
        z: Tensor | None = None,
        at: Tensor | None = None,
        noise_places: Tensor | None = None,
    ) -> Tensor:
        """M semantic maps of HxW and z [M·S,Z] (None if the latent is "map") -> images [M·S,3,H,W] in [-1,1].

        at: see :meth:`start`. noise_places: those of :class:`.pixel_noise.PixelNoise`, for training.
        """
        return self.from_start(self.start(semantic, z, at), semantic, noise_places=noise_places)

    def from_start(
        self, x: Tensor, semantic: SemanticMap, tile: Tile | None = None, noise_places: Tensor | None = None
    ) -> Tensor:
        """Apply the blocks to the first feature map [M·S,16·ngf (+ map channels),h,w] -> images [M·S,3,H,W].

        tile: the part of the images to compute, in evaluation mode; None for all of them.
        """
        for i, (block, upsample) in enumerate(zip(self.blocks, self.upsample_before, strict=True)):
            x = x if tile is None else tile.enter(i, x)
            if upsample:
                x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = block(x, semantic if tile is None else semantic.of_block(tile, i))
            if self.noises:
                x = self.noises[i](x, (0, 0) if tile is None else tile.first(i), noise_places)
        images = torch.tanh(self.conv_img(F.leaky_relu(x, LEAK)))
        return images if tile is None else tile.leave(images)

    def start(self, semantic: SemanticMap, z: Tensor | None, at: Tensor | None = None) -> Tensor:
        """Compute the first feature map [M·S, 16·ngf (+ map channels), h, w].

        at: the maps are windows of images of the training size, with these first rows and columns, int64 [M·S,2] in
        multiples of the stride: what z makes of the whole image is cut there. None: the maps are whole.
        """
        grid = self.arch.grid_for(semantic.size)
        dtype = self.conv_img.weight.dtype
        if z is None:
            x: Tensor = self.fc(semantic.planes(grid, dtype))
            return x
        x = self.fc(z).unflatten(1, (16 * self.arch.ngf, *self.arch.start_grid))
        if at is not None:
            x = cut(x, at // self.arch.stride, grid)
        elif grid != self.arch.start_grid:
            x = F.interpolate(x, size=grid, mode="bilinear", align_corners=False)
        if self.concat_input:
            planes = semantic.planes(grid, x.dtype)
            x = torch.cat([x, planes.repeat_interleave(len(x) // len(semantic), 0)], 1)
        return x


@torch.no_grad()
def resize_start(state: Mapping[str, Tensor], old: Architecture, new: Architecture) -> dict[str, Tensor]:
    """Convert generator tensors from the training size of ``old`` to that of ``new``.

    The start grid is resized bilinearly. That is linear, so it is folded into the weights of the linear layer, and the
    function at the new size is what :meth:`Generator.start` computes for a size other than the training size.
    """
    resized = dict(state)
    if old.uses_z and old.start_grid != new.start_grid:
        for name in START:
            grids = state[name].reshape(16 * old.ngf, *old.start_grid, -1).permute(3, 0, 1, 2)
            grids = F.interpolate(grids, size=new.start_grid, mode="bilinear", align_corners=False)
            resized[name] = grids.permute(1, 2, 3, 0).reshape(-1, *state[name].shape[1:])
    return resized
