"""Reading masks, photos and instance maps in their common file formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from ..core.errors import UserError
from ..core.labelspace import LabelSpace
from .files import check_file, read_array, read_image

MaskFormat = Literal["auto", "index", "color"]
Size = tuple[int, int]

MASK_SUFFIXES = (".png", ".npy")
INSTANCE_SUFFIXES = (".png", ".npy", ".tif", ".tiff")
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MAX_LISTED = 8
MAX_MASK_VALUES = 64  # in a picture that is taken for a mask; a photograph in grey has more

_SCALED_GREY = {"L;2": 85, "L;4": 17}  # Pillow scales grey samples of 2 and 4 bits to 0..255; a mask needs the samples


def read_mask(path: Path, labels: LabelSpace, mask_format: MaskFormat = "auto") -> NDArray[np.uint8]:
    """Read the label map of a mask file: uint8 [H,W] label codes (file values, or their ranks in a 16-bit label space).

    Formats: index PNG (1 to 16 bits), palette PNG (its index, or its colours with mask_format "color"), RGB or opaque
    RGBA with exact colours of the label space, ``.npy`` of integers. With mask_format "index" also RGB with three
    equal channels.
    Raises UserError, which names the file and every value or colour that is not in the label space.
    """
    pixels = read_pixels(path, mask_format)
    return _codes_of_colors(path, pixels, labels) if pixels.ndim == 3 else _codes_of_values(path, pixels, labels)


def read_pixels(path: Path, mask_format: MaskFormat = "auto") -> NDArray[Any]:
    """Read the raw pixels of a mask file: integers [H,W], or uint8 [H,W,3] for a colour-coded mask.

    Raises UserError if the file is damaged or of a format that cannot hold a mask, such as JPEG.
    """
    suffix = path.suffix.lower()
    if suffix not in MASK_SUFFIXES:
        check_file(path)
        _refuse_suffix(path, MASK_SUFFIXES)
    if suffix != ".npy":
        return read_image(path, lambda image: _mask_pixels(path, image, mask_format))
    if mask_format == "color":
        raise UserError(f"{path}: an .npy mask holds values, not colours", hint="leave --mask-format at auto")
    return read_array(path)


def read_instances(path: Path) -> NDArray[np.uint32]:
    """Read an instance map: uint32 [H,W], with a different number for each object.

    Formats: PNG or TIFF with 8, 16 or 32 bits, palette PNG (its index), RGB as r + 256 g + 65536 b, ``.npy``.
    Raises UserError for other files.
    """
    if path.suffix.lower() not in INSTANCE_SUFFIXES:
        check_file(path)
        _refuse_suffix(path, INSTANCE_SUFFIXES)
    if path.suffix.lower() == ".npy":
        ids = read_array(path)
        if ids.max() > 0xFFFFFFFF:
            raise UserError(f"{path}: value {ids.max()}, expected instance ids up to 4294967295")
    else:
        ids = read_image(path, lambda image: _mask_pixels(path, image, "auto"))
    if ids.ndim == 3:
        return np.asarray(ids.astype(np.uint32) @ np.array([1, 256, 65536], np.uint32))
    return ids.astype(np.uint32)


def read_photo(path: Path) -> NDArray[np.uint8]:
    """Read a photograph: uint8 [H,W,3] RGB, rotated as its EXIF orientation says.

    Grey, palette, CMYK and 16-bit pictures are converted; transparent ones are composited over white.
    Raises UserError if the file is damaged or not a picture.
    """
    return read_image(path, lambda image: _photo_pixels(path, image))


def check_is_photo(path: Path) -> None:
    """Raise UserError if a picture is a label map: a palette or grey PNG of few values."""
    if path.suffix.lower() == ".png":
        read_image(path, lambda image: _refuse_mask(path, image))


def resize_codes(codes: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Resize label codes uint8 [H,W] to ``size`` (height, width) with Pillow's NEAREST."""
    return np.asarray(Image.fromarray(codes).resize(size[::-1], Image.Resampling.NEAREST))


def resize_instances(ids: NDArray[np.uint32], size: Size) -> NDArray[np.uint32]:
    """Resize instance ids uint32 [H,W] to ``size`` (height, width) with Pillow's NEAREST."""
    image = Image.fromarray(np.ascontiguousarray(ids).view(np.int32))
    return np.asarray(image.resize(size[::-1], Image.Resampling.NEAREST)).view(np.uint32)


def resize_photo(photo: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Resize a photo uint8 [H,W,3] to ``size`` (height, width) with Pillow's BICUBIC, which is antialiased."""
    return np.asarray(Image.fromarray(photo).resize(size[::-1], Image.Resampling.BICUBIC))


def colorize(codes: NDArray[np.uint8], labels: LabelSpace) -> NDArray[np.uint8]:
    """Colour label codes uint8 [H,W] with the colours of the label space: uint8 [H,W,3]."""
    return labels.code_colors[codes]


def _refuse_suffix(path: Path, allowed: tuple[str, ...]) -> None:
    if path.suffix.lower() in (".jpg", ".jpeg"):
        raise UserError(
            f"{path}: a JPEG cannot hold a mask: its compression is lossy and changes the values at every edge",
            hint="export the mask as PNG from its source",
        )
    raise UserError(f"{path}: suffix {path.suffix!r} is not one of {', '.join(allowed)}")


def _mask_pixels(path: Path, image: Image.Image, mask_format: MaskFormat) -> NDArray[Any]:
    """Decode a lossless image: integers [H,W], or uint8 [H,W,3] if it is to be read by colour."""
    if image.format == "JPEG":
        raise UserError(
            f"{path}: a JPEG with another suffix; a JPEG cannot hold a mask: its compression is lossy",
            hint="export the mask as PNG from its source",
        )
    raw_mode = _raw_mode(image)
    if raw_mode in ("LA;16B", "RGB;16B", "RGBA;16B"):
        raise UserError(f"{path}: 16 bits per channel with colour or alpha; expected 8 bits, or 16-bit grey")
    if mask_format == "color" or image.mode in ("RGB", "RGBA", "PA", "LA"):
        rgb = _opaque_rgb(path, image)
        grey = mask_format == "index" or image.mode == "LA"
        return _equal_channels(path, rgb) if grey and mask_format != "color" else rgb
    if image.mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
        raise UserError(f"{path}: image mode {image.mode} cannot hold a mask; expected index, palette or RGB")
    values = np.array(image)
    if raw_mode in _SCALED_GREY:
        values //= _SCALED_GREY[raw_mode]
    if values.dtype.kind == "i" and values.min() < 0:
        raise UserError(f"{path}: negative value {values.min()}, expected integers from 0 up")
    return values.astype(np.uint8) if values.dtype.kind == "b" else values


def _raw_mode(image: Image.Image) -> str:
    """Return the format of the samples in the file, such as "L;4"; ``image.mode`` is what Pillow decodes them to."""
    args = image.tile[0].args if isinstance(image, ImageFile.ImageFile) and image.tile else None
    if isinstance(args, tuple) and args:
        args = args[0]
    return args if isinstance(args, str) else image.mode


def _opaque_rgb(path: Path, image: Image.Image) -> NDArray[np.uint8]:
    if image.mode in ("1", "L", "RGB"):
        return np.array(image.convert("RGB"))
    if image.mode not in ("P", "PA", "LA", "RGBA"):
        raise UserError(f"{path}: image mode {image.mode} has no colours to read a mask from")
    rgba = np.array(image.convert("RGBA"))
    clear = rgba[..., 3] != 255
    if clear.any():
        raise UserError(
            f"{path}: {_count(int(clear.sum()))} not opaque, first at {_position(clear)}",
            hint="flatten the mask: blended colours do not belong to any class",
        )
    return rgba[..., :3]


def _equal_channels(path: Path, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    coloured = (rgb != rgb[..., :1]).any(axis=-1)
    if coloured.any():
        raise UserError(
            f"{path}: {_count(int(coloured.sum()))} with unequal channels, first at {_position(coloured)}; "
            "an RGB picture read by index must be grey",
            hint="leave --mask-format at auto to read it by colour",
        )
    return np.ascontiguousarray(rgb[..., 0])


def _codes_of_values(path: Path, values: NDArray[Any], labels: LabelSpace) -> NDArray[np.uint8]:
    wide = values.astype(np.uint16)
    lookup = np.full(65536, -1, np.int16)
    lookup[list(labels.file_codes)] = list(labels.file_codes.values())
    codes = lookup[wide]
    codes[values != wide] = -1
    bad = codes < 0
    if bad.any():
        _refuse_values(path, values, bad, labels)
    return codes.astype(np.uint8)


def _refuse_values(path: Path, values: NDArray[Any], bad: NDArray[np.bool_], labels: LabelSpace) -> None:
    problems, hint = [], "relabel these pixels, or give a recipe with the label space of the mask"
    found = most_frequent(values[bad])
    found.sort(key=lambda row: row[0] != 255)  # 255 so often means "unknown" that it must not be cut off
    for value, count in found[:MAX_LISTED]:
        line = f"value {value}: {_count(count)}, first at {_position(values == value)}"
        if value == 255 and labels.unknown is None:
            line += "; 255 commonly means unknown, and the label space has no unknown class"
            hint = 'relabel these pixels, or give the label space a class with value 255 and name it in "unknown"'
        problems.append(line)
    problems += _cut_off(found)
    known = _ranges(labels.file_values)
    raise UserError(f"{path}: values outside label space {labels.name!r} ({known})", problems=problems, hint=hint)


def _codes_of_colors(path: Path, rgb: NDArray[np.uint8], labels: LabelSpace) -> NDArray[np.uint8]:
    packed = pack_colors(rgb)
    colors = pack_colors(np.array([c.color for c in labels.classes], np.uint8))
    order = np.argsort(colors)
    place = np.searchsorted(colors[order], packed).clip(max=len(colors) - 1)
    bad = colors[order][place] != packed
    if bad.any():
        found = most_frequent(packed[bad])
        problems = [
            f"colour {show_color(c)}: {_count(n)}, first at {_position(packed == c)}" for c, n in found[:MAX_LISTED]
        ]
        grey = bool((rgb == rgb[..., :1]).all())
        raise UserError(
            f"{path}: {len(found)} colour{'s' * (len(found) != 1)} not in the palette of label space {labels.name!r}",
            problems=[*problems, *_cut_off(found)],
            hint="--mask-format index reads a grey RGB mask by value" if grey else "save it without antialiasing",
        )
    codes: NDArray[np.uint8] = labels.channel_to_code[order][place]
    return codes


def _refuse_mask(path: Path, image: Image.Image) -> None:
    if image.mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
        return
    values = len(np.unique(np.array(image)))
    if values <= MAX_MASK_VALUES:
        kind = "palette" if image.mode == "P" else "grey"
        raise UserError(
            f"{path}: a label map, not a photo ({kind} PNG of {values} value{'s' * (values != 1)})",
            hint="give the photo that belongs to it; if this is a photo, save it as RGB",
        )


def _photo_pixels(path: Path, image: Image.Image) -> NDArray[np.uint8]:
    picture: Image.Image = ImageOps.exif_transpose(image)
    if picture.mode == "F":
        raise UserError(f"{path}: floating-point pixels have no known range; expected 8 or 16 bits")
    if picture.mode.startswith("I"):
        grey = (np.array(picture).astype(np.int64).clip(0, 65535) + 128) // 257
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        picture = Image.new("RGBA", rgba.size, "white")
        picture.alpha_composite(rgba)
    return np.array(picture.convert("RGB"))


def most_frequent(values: NDArray[Any]) -> list[tuple[int, int]]:
    """Return (value, count) of each value in an array, the most frequent first."""
    found, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return list(zip(found[order].tolist(), counts[order].tolist(), strict=True))


def pack_colors(rgb: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Pack each colour uint8 [...,3] into one number: 65536 r + 256 g + b."""
    return np.asarray(rgb.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32))


def show_color(color: int) -> str:
    """Format a packed colour as "(r, g, b)"."""
    return f"({color >> 16}, {color >> 8 & 255}, {color & 255})"


def _cut_off(found: list[tuple[int, int]]) -> list[str]:
    return [f"and {len(found) - MAX_LISTED} more"] if len(found) > MAX_LISTED else []


def _position(where: NDArray[np.bool_]) -> str:
    row, column = divmod(int(where.argmax()), where.shape[1])
    return f"row {row}, column {column}"


def _count(n: int) -> str:
    return f"{n:,} pixel{'s' * (n != 1)}"


def _ranges(values: tuple[int, ...]) -> str:
    """Abbreviate ascending numbers: (0, 1, 2, 5) -> "0-2, 5"."""
    parts: list[list[int]] = []
    for v in values:
        if parts and v == parts[-1][1] + 1:
            parts[-1][1] = v
        else:
            parts.append([v, v])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
