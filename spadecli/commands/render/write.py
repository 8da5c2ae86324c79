"""Behind the network: pixels to image files in threads, each followed by its row in the manifest."""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from ...core.errors import UserError
from ...core.labelspace import LabelSpace
from ...data.pixels import image_bytes
from ...store.atomic import write_bytes
from ...store.manifest import ManifestWriter
from .load import LoadedMask
from .options import ImageFormat
from .targets import Image, RenderPlan, seed_text

WAITING_PER_WORKER = 8
P = ParamSpec("P")


def encode_image(pixels: NDArray[np.uint8], image_format: ImageFormat, quality: int | None) -> bytes:
    """uint8 [H,W,3] to the bytes of an image file; quality is None for PNG."""
    buffer = io.BytesIO()
    # level 2: a fifth of the time of the default, for one or two per cent more bytes
    lossy = {"compress_level": 2} if quality is None else {"quality": quality}
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

    The first mask brings the options row into the manifest before its own.
    Leaving the block waits for what is under way. The first failure of a thread is raised in the caller.
    """

    def __init__(self, plan: RenderPlan, manifest: ManifestWriter, num_workers: int) -> None:
        self._plan, self._manifest = plan, manifest
        self._threads = ThreadPoolExecutor(num_workers, "write")
        self._waiting: deque[Future[None]] = deque()
        self._limit = num_workers * WAITING_PER_WORKER

    def write_image(self, mask: LoadedMask, image: Image, output: NDArray[np.float32]) -> None:
        """Queue one network output float32 [3,H,W] of a mask that :meth:`write_mask` was called with."""
        self._queue(self._write_image, mask, image, output)

    def write_mask(self, mask: LoadedMask, labels: LabelSpace) -> None:
        """Put the mask's row into the manifest, before those of its images, and queue the coloured mask."""
        if self._manifest.journal.newest_options != self._plan.row:
            self._manifest.append(self._plan.row)
        for style in self._plan.styles:
            if style is not None and self._manifest.journal.styles.get(style.id) != style.row:
                self._manifest.append(style.row)
        if self._manifest.journal.masks.get(mask.target.key) != mask.row:
            self._manifest.append(mask.row)
        if mask.needs_color and mask.codes is not None:
            self._queue(self._write_colored, mask.target.colored_file, mask.codes, labels)

    def _queue(self, write: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        self._waiting.append(self._threads.submit(write, *args, **kwargs))
        while len(self._waiting) > self._limit or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()

    def _write_image(self, mask: LoadedMask, image: Image, output: NDArray[np.float32]) -> None:
        options = self._plan.options
        pixels = image_bytes(output)
        data = encode_image(pixels, options.image_format, options.lossy_quality)
        _write(options.out / image.file, data)
        row = {
            "kind": "image",
            "mask": mask.target.key,
            "sample": image.sample,
            "seed": seed_text(image.seed),
            "file": image.file,
            "size": list(pixels.shape[:2]),
            "options": self._plan.row["id"],
            "mask_sha256": mask.row["sha256"],
            "digest": self._plan.digest(image, mask.row["sha256"], mask.row["instances_sha256"]),
            "sha256": hashlib.sha256(data).hexdigest(),
            "num_bytes": len(data),
        }
        if image.style is not None:
            row["style"] = image.style.id
        self._manifest.append(row)

    def _write_colored(self, file: str, codes: NDArray[np.uint8], labels: LabelSpace) -> None:
        _write(self._plan.options.out / file, encode_colored(codes, labels))

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
            f"{path}: cannot be written ({e.strerror})", hint="once it can be, the same command resumes here"
        ) from e
