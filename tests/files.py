"""Hand-made files for tests of reading: PNGs of any bit depth, damaged ones, small data sets."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from spadecli.core.labelspace import LabelSpace

THREE_CLASSES = LabelSpace(name="three", classes=("wall", "window", "door"))


def grey_png(path: Path, values: np.ndarray, bits: int) -> Path:
    """A greyscale PNG [H,W] of 1, 2, 4, 8 or 16 bits a sample, written without Pillow."""
    rows = b""
    for row in values.tolist():
        text = "".join(format(v, f"0{bits}b") for v in row)
        text += "0" * (-len(text) % 8)
        rows += b"\0" + int(text, 2).to_bytes(len(text) // 8, "big")
    height, width = values.shape
    return _png(path, width, height, bits, rows)


def bomb_png(path: Path, width: int, height: int) -> Path:
    """A tiny file whose header promises width times height pixels."""
    return _png(path, width, height, 8, b"\0" * 64)


def _png(path: Path, width: int, height: int, bits: int, rows: bytes) -> Path:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    return path


def save(path: Path, pixels: np.ndarray) -> Path:
    """Save an array as a picture or .npy, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, pixels)
    else:
        Image.fromarray(pixels).save(path)
    return path


def data_set(root: Path, names: tuple[str, ...] = ("a", "b", "sub/c"), size: tuple[int, int] = (12, 16)) -> None:
    """root/photos/NAME.jpg, root/masks/NAME.png (values 0 to 2, class 2 in "a" alone) and root/recipe.toml."""
    rng = np.random.default_rng(0)
    for name in names:
        save(root / "photos" / f"{name}.jpg", rng.integers(0, 256, (*size, 3), np.uint8))
        save(root / "masks" / f"{name}.png", rng.integers(0, 3 if name == "a" else 2, size, np.uint8))
    (root / "recipe.toml").write_text(RECIPE)


RECIPE = """
name = "three"
[data]
photos = "photos"
masks = "masks"
packed = "packed.h5"
load_size = [32, 32]
[labels]
name = "three"
classes = ["wall", "window", "door"]
[model]
size = [32, 32]
[train]
steps = 10
"""
