"""Behind the network: pixels to image files in threads, each followed by its row in the manifest."""

from __future__ import annotations

import hashlib
import io
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from ...core.errors import UserError
from ...core.labelspace import LabelSpace
from ...data.pixels import image_bytes
from ...store.atomic import write_bytes
from ...store.manifest import ManifestWriter
from .load import LoadedMask
from .options import ImageFormat, RenderOptions
from .plan import Image, seed_text

WAITING_PER_WORKER = 8


def encode_image(pixels: NDArray[np.uint8], image_format: ImageFormat, quality: int | None) -> bytes:
    """uint8 [H,W,3] to the bytes of an image file; quality is None for PNG."""
    buffer = io.BytesIO()
    lossy = {} if quality is None else {"quality": quality}
    PillowImage.fromarray(pixels).save(buffer, image_format, **lossy)
    return buffer.getvalue()


def encode_colored(codes: NDArray[np.uint8], labels: LabelSpace) -> bytes:
    """Label codes uint8 [H,W] as a palette PNG in the label space's colours."""
    buffer = io.BytesIO()
    image = PillowImage.fromarray(codes)
    image.putpalette(labels.code_colors.tobytes())
    image.save(buffer, "png")
    return buffer.getvalue()


class ImageWriter:
    """Encodes and writes in threads, with a bounded number of images waiting.

    Leaving the block waits for what is under way. The first failure of a thread is raised in the caller.
    """

    def __init__(self, options: RenderOptions, options_id: str, manifest: ManifestWriter, num_workers: int) -> None:
        self._options, self._options_id, self._manifest = options, options_id, manifest
        self._threads = ThreadPoolExecutor(num_workers, "write")
        self._waiting: deque[Future[None]] = deque()
        self._limit = num_workers * WAITING_PER_WORKER

    def write_image(self, mask: LoadedMask, image: Image, output: NDArray[np.float32]) -> None:
        """Queue one network output float32 [3,H,W]."""
        self._queue(self._threads.submit(self._write_image, mask, image, output))

    def write_mask(self, mask: LoadedMask, labels: LabelSpace) -> None:
        """Queue the coloured mask and the mask's row."""
        self._queue(self._threads.submit(self._write_mask, mask, labels))

    def _queue(self, future: Future[None]) -> None:
        self._waiting.append(future)
        while len(self._waiting) > self._limit or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()

    def _write_image(self, mask: LoadedMask, image: Image, output: NDArray[np.float32]) -> None:
        path = self._options.out / image.file
        if not np.isfinite(output).all():
            raise UserError(f"{path}: the network's output is not finite; the weights are damaged or overflow")
        pixels = image_bytes(output)
        data = encode_image(pixels, self._options.image_format, self._options.lossy_quality)
        _write(path, data)
        row = {
            "kind": "image",
            "mask": mask.target.key,
            "sample": image.sample,
            "seed": seed_text(image.seed),
            "file": image.file,
            "size": list(pixels.shape[:2]),
            "options": self._options_id,
            "mask_sha256": mask.row["sha256"],
            "digest": mask.digests[image.sample],
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        self._manifest.append(row)

    def _write_mask(self, mask: LoadedMask, labels: LabelSpace) -> None:
        if mask.needs_color and mask.codes is not None:
            _write(self._options.out / mask.target.colored_file, encode_colored(mask.codes, labels))
        if self._manifest.journal.masks.get(mask.target.key) != mask.row:
            self._manifest.append(mask.row)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=True)  # after an error too: what the network has made is kept
        if error is None:
            for future in self._waiting:
                future.result()


def _write(path: Path, data: bytes) -> None:
    try:
        write_bytes(path, data)
    except OSError as e:
        raise UserError(
            f"{path}: cannot be written ({e.strerror})", hint="the same command goes on from here once it can"
        ) from e
