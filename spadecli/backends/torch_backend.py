"""The torch backend: runs a weights file on the CPU or CUDA."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..compute.devices import fp32_math, pick_device, use_device
from ..core.errors import UserError
from ..cpu.generator import FastGenerator, why_not_fast
from ..model.generator import Generator
from ..model.semantic import SemanticMap
from ..model.tiling import TILE, Tile, find_tiles, why_not_tiled
from ..weights.card import Card
from ..weights.file import load_weights
from ..windows.find import label_codes
from .base import Form, Precision, TileSize, check_photos, check_run
from .cuda_graphs import Recorded


class TorchBackend:
    """See :class:`spadecli.backends.base.Backend`, and :func:`spadecli.backends.base.open_backend` for the options.

    The fast form processes the masks of a batch one by one. With the C++ kernels (fp32 on a CPU) an image is identical
    to the last bit in any batch; in torch operations its rounding depends on the number of samples.
    """

    name = "torch"
    weights_sha256 = ""
    fixed_size: tuple[int, int] | None = None

    def __init__(
        self,
        path: Path,
        device: str = "auto",
        form: Form = "auto",
        precision: Precision = "fp32",
        tile: TileSize = None,
    ) -> None:
        self._device = use_device(pick_device(device))
        self.device = str(self._device)
        if precision == "tf32" and self._device.type != "cuda":
            raise UserError("precision tf32 is for CUDA GPUs", hint="fp32 is exact, and bf16 runs on a CPU too")
        self.card: Card
        self.card, generator, encoder = load_weights(path)
        self.tile = _pick_tile(tile, self.card)
        self.form, self.precision = _pick_form(form, self._device, generator, self.card), precision
        self._generator: Generator | FastGenerator | None
        if self.form == "fast":
            dtype = torch.bfloat16 if precision == "bf16" else torch.float32
            self._generator = FastGenerator(generator, self.card.labels.num_classes, self._device, dtype)
        else:
            self._generator = generator.to(self._device)
            if self._device.type == "cuda" and precision == "bf16":  # the layout of tensor cores
                self._generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        cuda_plain = self._device.type == "cuda" and self.form == "plain"
        self.recorded = Recorded(self._plain) if cuda_plain else None
        self._encoder = encoder.to(self._device) if encoder is not None else None
        self._channel_of = self.card.labels.code_to_channel.astype(np.int32)

    @torch.inference_mode()
    def run(
        self, labels: NDArray[np.uint8], edges: NDArray[np.uint8] | None, z: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """See :meth:`spadecli.backends.base.Backend.run`."""
        if self._generator is None:
            raise self._closed()
        check_run(self.card, labels, edges, z)
        channels = self._channel_of[labels]
        if self.card.labels.instances:
            edges = np.zeros_like(labels) if edges is None else edges
        latent = torch.from_numpy(z).to(self._device) if z is not None and self.card.architecture.uses_z else None
        try:
            run = self._run_fast if self.form == "fast" else self._run_plain
            with fp32_math(self.precision == "tf32"):
                return run(channels, edges, latent)
        except RuntimeError as e:
            # on the CPU torch raises a plain RuntimeError
            if isinstance(e, torch.OutOfMemoryError) or "can't allocate memory" in str(e):
                raise MemoryError(str(e)) from e
            raise

    def _run_fast(
        self, channels: NDArray[np.int32], edges: NDArray[np.uint8] | None, z: Tensor | None
    ) -> NDArray[np.float32]:
        generator = self._generator
        assert isinstance(generator, FastGenerator)
        codes = label_codes(channels, edges)
        latents = [None] * len(codes) if z is None else z.chunk(len(codes))
        if self.tile is None:
            return _on_host(torch.cat([generator(one[None], zs) for one, zs in zip(codes, latents, strict=True)]))
        rows, size = len(codes) if z is None else len(z), (codes.shape[1], codes.shape[2])
        out = np.empty((rows, 3, *size), np.float32)
        for one, zs, images in zip(codes, latents, np.split(out, len(codes)), strict=True):
            start = generator.start(one[None], zs)
            self._fill(images, partial(generator.from_start, start, one[None]))
        return out

    def _run_plain(
        self, channels: NDArray[np.int32], edges: NDArray[np.uint8] | None, z: Tensor | None
    ) -> NDArray[np.float32]:
        generator = self._generator
        assert isinstance(generator, Generator)
        planes = torch.from_numpy(edges).to(self._device) if edges is not None else None
        on_device = torch.from_numpy(channels).to(self._device).long()
        if self.tile is None:
            return _on_host((self._plain if self.recorded is None else self.recorded)(on_device, planes, z))
        semantic = SemanticMap(on_device, planes, self.card.labels.num_classes)
        with self._autocast(keep=True):
            start = generator.start(semantic, z)
            out = np.empty((len(start), 3, *semantic.size), np.float32)
            self._fill(out, partial(generator.from_start, start, semantic))
        return out

    def _plain(self, channels: Tensor, edges: Tensor | None, z: Tensor | None) -> Tensor:
        assert isinstance(self._generator, Generator)
        with self._autocast(keep=False):  # each weight is used once, and a cached cast would outlive a recording
            images: Tensor = self._generator(SemanticMap(channels, edges, self.card.labels.num_classes), z)
        return images

    def _autocast(self, keep: bool) -> torch.autocast:
        """Return the autocast context; ``keep``: cache the casts of weights within it, as every tile uses them."""
        enabled = self.precision == "bf16"
        return torch.autocast(self._device.type, torch.bfloat16, enabled=enabled, cache_enabled=keep)

    def _fill(self, images: NDArray[np.float32], compute: Callable[[Tile], Tensor]) -> None:
        """Fill images float32 [N,3,H,W] tile by tile, so that only the first feature map is of the whole size."""
        assert self.tile is not None
        for tile in find_tiles(self.card.architecture, images.shape[2:], self.tile):
            tile.image.of(images)[:] = _on_host(compute(tile))

    @torch.inference_mode()
    def encode(self, photos: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See :meth:`spadecli.backends.base.Backend.encode`."""
        if self._generator is None:
            raise self._closed()
        if self._encoder is None:
            raise UserError(
                f"weights {self.card.name!r} have no image encoder (latent = {self.card.architecture.latent!r})",
                hint='styles need weights trained with latent = "encoder", such as the shipped facades weights',
            )
        check_photos(photos)
        with fp32_math(self.precision == "tf32"):
            mu, logvar = self._encoder(torch.from_numpy(photos).to(self._device))
        return mu.cpu().numpy(), logvar.cpu().numpy()

    def _closed(self) -> UserError:
        return UserError(f"weights {self.card.name!r}: the backend is closed", hint="open_backend opens it again")

    def close(self) -> None:
        """Free the device's memory."""
        self._generator = self._encoder = self.recorded = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_file(
    path: Path, device: str, form: Form = "auto", precision: Precision = "fp32", tile: TileSize = None
) -> TorchBackend:
    """Open a .safetensors weights file."""
    return TorchBackend(path, device, form, precision, tile)


def _on_host(images: Tensor) -> NDArray[np.float32]:
    out: NDArray[np.float32] = images.float().contiguous().cpu().numpy()
    return out


def _pick_tile(tile: TileSize, card: Card) -> int | None:
    """Return the tile size in pixels per side, a multiple of the stride, or None for no tiles. Raises UserError."""
    arch = card.architecture
    if tile is None:
        return None
    if reason := why_not_tiled(arch):
        raise UserError(
            f"weights {card.name!r} cannot be rendered in tiles: {reason}",
            hint="omit --tile; a smaller --size takes less memory",
        )
    if tile == "auto":
        return TILE
    if tile < arch.stride or tile % arch.stride:
        near = max(arch.stride, round(tile / arch.stride) * arch.stride)
        raise UserError(
            f"tile {tile}: expected a multiple of {arch.stride}, the stride of weights {card.name!r}",
            hint=f"the nearest that fits is {near}",
        )
    return tile


def _pick_form(form: Form, device: torch.device, generator: Generator, card: Card) -> Form:
    """Choose the form; "auto" is fast only on the CPU, as it has not been measured on CUDA. Raises UserError."""
    reason = why_not_fast(generator)
    if form == "auto":
        return "fast" if device.type == "cpu" and not reason else "plain"
    if form == "fast" and reason:
        raise UserError(f"weights {card.name!r}: no fast form for {reason}", hint="use form auto or plain")
    return form
