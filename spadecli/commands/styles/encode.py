"""Photos to style codes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...backends.base import Backend
from ...core.errors import UserError, refuse
from ...core.parallel import map_in_order
from ...core.report import Report
from ...core.sizes import Size
from ...core.style_code import StyleCode
from ...data.folder import Item, scan
from ...data.masks import check_is_photo, read_photo, resize_photo
from ...data.pixels import photo_values
from ...store.h5 import file_sha256
from ...store.manifest import NAME as MANIFEST_NAME
from ...store.styles_file import StyleEntry

PHOTOS_PER_CALL = 16
THUMBNAIL = 256
NOT_IMAGES = ("_masks/", "_styles/")  # of a folder of renders: pictures for its gallery
NO_ENCODER_HINT = {
    "map": "these weights make one image per mask, whatever the style",
    "noise": "spade render --samples 4 draws styles at random",
}


class Photo(NamedTuple):
    """A photo to encode: what to call it, and its file."""

    name: str
    path: Path


def check_encoder(backend: Backend, path: Path) -> None:
    """Raise UserError where the weights at ``path`` have no encoder."""
    latent = backend.card.architecture.latent
    if latent != "encoder":
        raise UserError(
            f"{path}: no image encoder (latent = {latent}), which the style of a photo needs",
            hint=f'{NO_ENCODER_HINT[latent]}; train with model.latent = "encoder", or leave -w out to use the shipped '
            "facades weights",
        )


def photos_in(folder: Path) -> list[Item]:
    """The photos of a folder and its subfolders, or one photo; of a folder of renders, the images alone."""
    items = scan(folder, "photos")
    if not (folder / MANIFEST_NAME).is_file():
        return items
    return [item for item in items if not item.relative.startswith(NOT_IMAGES)]


def encode_photos(
    backend: Backend, photos: Sequence[Photo], known: Mapping[str, StyleEntry], num_workers: int, report: Report
) -> tuple[list[StyleEntry], int]:
    """Styles of photos in their order, and how many had to be encoded: ``known`` ones, by sha256, are reused.

    Raises UserError that lists every photo that cannot be read.
    """
    problems: list[UserError] = []
    hashes = [_hash_or_tell(photo.path, problems) for photo in photos]
    found = dict(known)
    new = {sha: photo for sha, photo in zip(hashes, photos, strict=True) if sha and sha not in found}
    with report.progress("encoding", len(new)) as task:
        read = partial(_read_or_tell, size=backend.card.architecture.size)
        loaded = zip(new, map_in_order(read, [photo.path for photo in new.values()], num_workers), strict=True)
        while group := list(islice(loaded, PHOTOS_PER_CALL)):
            good = [(sha, *picture) for sha, picture in group if not isinstance(picture, UserError)]
            problems += [picture for _, picture in group if isinstance(picture, UserError)]
            if good:
                mu, logvar = backend.encode(np.stack([values for _, values, _ in good]))
            for i, (sha, _, thumbnail) in enumerate(good):
                if not (np.isfinite(mu[i]).all() and np.isfinite(logvar[i]).all()):
                    problems.append(UserError(f"{new[sha].path}: the encoder's answer is not finite: damaged weights"))
                found[sha] = StyleEntry(new[sha].name, StyleCode(mu[i], logvar[i]), sha, thumbnail)
            task.advance(len(group))
    hint = next((e.hint for e in problems if e.hint), "repair or remove them")
    refuse([e.line for e in problems], f"{len(problems)} of {len(photos)} photos cannot be encoded", hint)
    return [replace(found[sha], name=p.name) for sha, p in zip(hashes, photos, strict=True) if sha], len(new)


def read_values(path: Path, size: Size) -> NDArray[np.float32]:
    """A photo as the encoder is given it: float32 [3,H,W] in [-1,1].

    Upright, in RGB, at ``size``, the training size, without keeping its aspect (bicubic, as the training photos
    were); the encoder itself resizes to 256x256. Raises UserError if it is not a picture.
    """
    return photo_values(_at(read_photo(path), size))


def thumbnail_of(photo: NDArray[np.uint8]) -> bytes:
    """A JPEG of a photo uint8 [H,W,3], at most THUMBNAIL pixels on a side, in its own aspect."""
    image = Image.fromarray(photo)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _at(photo: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    return photo if photo.shape[:2] == size else resize_photo(photo, size)


def _hash_or_tell(path: Path, problems: list[UserError]) -> str:
    try:
        return file_sha256(path)
    except OSError as e:
        problems.append(UserError(f"{path}: cannot be read ({e.strerror})"))
        return ""


def _read_or_tell(path: Path, size: Size) -> tuple[NDArray[np.float32], bytes] | UserError:
    try:
        check_is_photo(path)
        photo = read_photo(path)
        return photo_values(_at(photo, size)), thumbnail_of(photo)
    except UserError as e:
        return e
