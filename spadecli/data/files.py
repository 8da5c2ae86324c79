"""Opening image files and arrays: anything wrong with a file becomes one clear UserError."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..core.errors import UserError

T = TypeVar("T")

BOMB_HINT = "scale the file down; images of this size are refused, since they may be decompression bombs"

# warnings.catch_warnings replaces global state, so threads must take turns opening files. Decoding runs in parallel.
_opening = threading.Lock()


def check_file(path: Path) -> None:
    """Raise UserError if ``path`` is missing, not a regular file, or empty."""
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if not path.is_file():
        raise UserError(f"{path}: not a file")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty (0 bytes)", hint="copy it again from its source")


@contextmanager
def _open_image(path: Path) -> Iterator[Image.Image]:
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image = Image.open(path)
    with image:
        yield image


def read_image(path: Path, decode: Callable[[Image.Image], T]) -> T:
    """Open an image file and return ``decode(image)``.

    Raises UserError if the file is missing, empty, truncated, not an image, or larger than Pillow's limit
    (``PIL.Image.MAX_IMAGE_PIXELS``); a UserError from ``decode`` is raised unchanged.
    """
    check_file(path)
    try:
        with _open_image(path) as image:
            return decode(image)
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
        limit = f"{Image.MAX_IMAGE_PIXELS:,}"
        raise UserError(f"{path}: more than {limit} pixels", hint=BOMB_HINT) from e
    except UnidentifiedImageError as e:
        raise UserError(
            f"{path}: not an image file that can be read", hint="open it in a viewer to see what it is"
        ) from e
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more on damaged files
    except Exception as e:
        if isinstance(e, OSError) and e.errno:
            raise UserError(f"{path}: cannot be read ({e.strerror})") from e
        reason = str(e) or type(e).__name__
        raise UserError(f"{path}: damaged or truncated ({reason})", hint="copy it again from its source") from e


def read_array(path: Path) -> NDArray[Any]:
    """Read a two-dimensional array [H,W] of integers >= 0 (or booleans, as 0 and 1) from an ``.npy`` file.

    Raises UserError if the file is missing, empty or truncated, or if its values have another type, shape or sign.
    """
    check_file(path)
    try:
        # memory-mapped, so that a header that promises more than the file holds fails instead of allocating memory
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as e:
        raise UserError(f"{path}: not a readable .npy array ({e})", hint="write it with numpy.save") from e
    if not isinstance(stored, np.ndarray):
        raise UserError(f"{path}: an archive of arrays, where one array is needed", hint="write it with numpy.save")
    if stored.dtype.kind not in "bui":
        raise UserError(
            f"{path}: values of type {stored.dtype}, expected integers", hint="save array.astype(numpy.uint8)"
        )
    if stored.ndim != 2 or not stored.size:
        raise UserError(f"{path}: shape {list(stored.shape)}, expected [height, width]")
    if Image.MAX_IMAGE_PIXELS is not None and stored.size > Image.MAX_IMAGE_PIXELS:
        raise UserError(f"{path}: more than {Image.MAX_IMAGE_PIXELS:,} pixels", hint=BOMB_HINT)
    values: NDArray[Any] = np.array(stored, dtype=np.uint8 if stored.dtype.kind == "b" else stored.dtype)
    if values.dtype.kind == "i" and values.min() < 0:
        raise UserError(f"{path}: negative value {values.min()}, expected integers from 0 up")
    return values
