"""The generator's inference form for CPUs: :class:`spadecli.model.generator.Generator` in evaluation, by tables."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels import native
from ..model.generator import Generator, SPADEBlock
from ..model.layers import EPS
from ..model.spade import SPADE
from ..model.tiling import Tile, Window, whole_tile
from ..weights.folding import can_fold, folded_modulation
from ..windows.find import Ints, Windows, find_windows
from ..windows.tables import ModulationTable
from .convolution import ComputeSettings, ImageConv, ModulatedConv, ModulatedShortcut, StartLinear

CPU = torch.device("cpu")


def why_not_fast(generator: Generator) -> str:
    """Return why a generator has no fast form, or "" if it has one."""
    if generator.arch.conditioning != "spade":
        return f"conditioning {generator.arch.conditioning!r}: norms that ignore the semantic map have no tables"
    return ""


class FastBlock:
    """A residual block on channels-last feature maps, with tables computed beforehand."""

    def __init__(self, block: SPADEBlock, num_classes: int, settings: ComputeSettings) -> None:
        norms = {"0": block.norm_0, "1": block.norm_1, "s": block.norm_s}
        self.is_folded: dict[str, bool] = {}
        self.tables: dict[str, ModulationTable] = {}
        for name, norm in norms.items():
            if isinstance(norm, SPADE):
                self.is_folded[name] = can_fold(norm)
                self.tables[name] = ModulationTable(
                    norm.shared, folded_modulation(norm), num_classes, settings.device, settings.use_kernels
                )
        self.conv_0, self.conv_1 = ModulatedConv(block.conv_0, settings), ModulatedConv(block.conv_1, settings)
        self.conv_s = ModulatedShortcut(block.conv_s, settings) if block.conv_s is not None else None

    def scale_shift(self, windows: Windows) -> dict[str, Tensor]:
        """Compute scales and shifts of the block's SPADE layers, shared by all samples of a mask."""
        return {name: table(windows) for name, table in self.tables.items()}

    def __call__(self, x: Tensor, scale_shift: dict[str, Tensor], window_of_pixel: Tensor, upsample: bool) -> Tensor:
        """x [M·S,fin,h,w], upsampled first if ``upsample``, and window_of_pixel int32 [M,H,W] -> [M·S,fout,H,W]."""
        normed, shortcut = self._normed(x, "0"), x
        if self.conv_s is not None:
            shortcut = self.conv_s(normed, scale_shift["s"], window_of_pixel, upsample)
        x = self.conv_0(normed, scale_shift["0"], window_of_pixel, upsample, None)
        x = self._normed(x, "1")
        return self.conv_1(x, scale_shift["1"], window_of_pixel, False, shortcut, reuse=self.conv_s is not None)

    def _normed(self, x: Tensor, layer: str) -> Tensor:
        """Apply instance norm if the norm is not folded. It may precede upsampling, which keeps mean and variance."""
        if self.is_folded[layer]:
            return x
        return F.instance_norm(x, eps=EPS).contiguous(memory_format=torch.channels_last)


class FastGenerator:
    """The generator by tables: label codes and latents to images.

    It takes the weights out of ``generator``, which is left without its layers, so that they are in memory only once.
    """

    def __init__(
        self,
        generator: Generator,
        num_classes: int,
        device: torch.device = CPU,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.settings = ComputeSettings(
            device, dtype, device.type == "cpu" and dtype == torch.float32 and native.available()
        )
        self.arch, self.num_classes = generator.arch, num_classes
        self.upsample_before = generator.upsample_before
        self.has_edges = generator.semantic_channels > num_classes
        self.fc: StartLinear | nn.Module
        if isinstance(generator.fc, nn.Linear):
            self.fc = StartLinear(generator.fc, self.arch.start_grid, self.settings)
        else:
            self.fc = generator.fc.to(device)
        generator.fc = nn.Identity()
        self.conv_img = ImageConv(generator.conv_img, self.settings)
        self.noises = generator.noises.to(device)
        self.blocks = []
        for i, block in enumerate(generator.blocks):
            assert isinstance(block, SPADEBlock)
            self.blocks.append(FastBlock(block, num_classes, self.settings))
            generator.blocks[i] = nn.Identity()

    def windows(self, codes: Ints, tile: Tile | None = None) -> list[Windows]:
        """Find the distinct windows of codes [M,H,W] for every block; blocks of the same size share them."""
        whole = tile or whole_tile(self.arch, (codes.shape[1], codes.shape[2]))
        found: dict[tuple[Window, int], Windows] = {}
        for i, key in enumerate(zip(whole.blocks, whole.steps, strict=True)):
            if key not in found:
                found[key] = find_windows(whole.labels(i, codes), self.arch.kernel, search_noise=False).to(
                    self.settings.device
                )
        return [found[key] for key in zip(whole.blocks, whole.steps, strict=True)]

    def start(self, codes: Ints, z: Tensor | None) -> Tensor:
        """Compute the first feature map [M·S, 16·ngf, h, w] of codes [M,H,W] and z [M·S,Z]."""
        grid = self.arch.grid_for((codes.shape[1], codes.shape[2]))
        if z is None:
            first: Tensor = self.fc(self._planes(codes, grid))
            return first
        x: Tensor = self.fc(z)
        if grid != self.arch.start_grid:
            x = F.interpolate(x, size=grid, mode="bilinear", align_corners=False)
        return x

    def __call__(self, codes: Ints, z: Tensor | None = None) -> Tensor:
        """Codes int32 [M,H,W] and z [M·S,Z] (None if the latent is "map") -> images [M·S,3,H,W] in [-1,1].

        Codes: see :func:`spadecli.windows.find.label_codes`. Row m·S+s is sample s of mask m.
        """
        return self.from_start(self.start(codes, z), codes)

    def from_start(self, x: Tensor, codes: Ints, tile: Tile | None = None) -> Tensor:
        """Apply the blocks to the first feature map [M·S,16·ngf,h,w] -> images [M·S,3,H,W].

        tile: the part of the images to compute; None for all of them.
        """
        found = self.windows(codes, tile)
        for i, (block, upsample) in enumerate(zip(self.blocks[:-1], self.upsample_before, strict=False)):
            x = self._enter(i, x, tile)
            x = block(x, block.scale_shift(found[i]), found[i].window_of_pixel, upsample)
            x = self._with_noise(i, x, tile)
        # the last block, one image at a time: its maps take more memory than everything before
        x = self._enter(len(self.blocks) - 1, x, tile)
        last, window_of_pixel = self.blocks[-1], found[-1].window_of_pixel
        scale_shift, samples = last.scale_shift(found[-1]), len(x) // len(codes)
        images = []
        for n in range(len(x)):
            mask = slice(n // samples, n // samples + 1)
            image = last(x[n : n + 1], scale_shift, window_of_pixel[mask], self.upsample_before[-1])
            images.append(self.conv_img(self._with_noise(len(self.blocks) - 1, image, tile)))
        all_images = torch.cat(images).tanh_()
        return all_images if tile is None else tile.leave(all_images)

    def _with_noise(self, block: int, x: Tensor, tile: Tile | None) -> Tensor:
        if not self.noises:
            return x
        noise: Tensor = self.noises[block](x, (0, 0) if tile is None else tile.first(block))
        return noise

    def _enter(self, block: int, x: Tensor, tile: Tile | None) -> Tensor:
        x = x if tile is None else tile.enter(block, x)
        return x.to(self.settings.dtype).contiguous(memory_format=torch.channels_last)

    def _planes(self, codes: Ints, grid: tuple[int, int]) -> Tensor:
        step_y, step_x = codes.shape[1] // grid[0], codes.shape[2] // grid[1]
        small = torch.from_numpy(np.ascontiguousarray(codes[:, ::step_y, ::step_x])).long() - 1
        channels = small // 2 if self.has_edges else small
        planes = F.one_hot(channels, self.num_classes)
        if self.has_edges:
            planes = torch.cat([planes, (small % 2)[..., None]], 3)
        return planes.permute(0, 3, 1, 2).float().to(self.settings.device)
