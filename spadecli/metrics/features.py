"""Features of picture files: read in batches, resized uniformly, and cached by content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UserError
from ..core.report import Report, Task
from ..store import h5
from ..store.feature_cache import FeatureStore
from .extractors import FeatureNetwork

SHARD = 2048  # pictures per file of the cache: the most that an interrupted run loses
SHOWN = 20  # pictures that cannot be scored, listed in the message

Group = list[tuple[str, Path]]  # (sha256, file)
Resize = Literal["bytes", "clean"]

RESIZE_WORDS: dict[Resize, str] = {
    "bytes": "bicubic, antialiased (Pillow)",
    "clean": "bicubic, antialiased (Pillow), each channel in floating point, not rounded",
}
CLEAN_SIZE = (299, 299)  # input of the FID Inception, to which clean-fid (Parmar et al., CVPR 2022) resizes beforehand


class FeatureReader:
    """Features of picture files under one protocol: an extractor, a size (height, width) and a method of resizing.

    Features are cached under ``cache`` by content, so that each picture is computed once.
    ``sha256`` holds the hash of every file that was read.
    """

    def __init__(
        self,
        extractor: FeatureNetwork,
        size: tuple[int, int],
        cache: Path,
        batch: int = 32,
        resize: Resize = "bytes",
    ) -> None:
        self.extractor, self.size, self.batch, self.resize = extractor, size, batch, resize
        self.sha256: dict[Path, str] = {}
        ending = "" if resize == "bytes" else f"-{resize}"
        folder = cache / "features" / f"{extractor.sha256[:16]}-{extractor.kind}-{size[0]}x{size[1]}{ending}"
        config = {
            "extractor": extractor.name,
            "extractor_sha256": extractor.sha256,
            "size": list(size),
            "resize": RESIZE_WORDS[resize],
        }
        self._store = FeatureStore(folder, config)

    def read(self, paths: Sequence[Path], report: Report) -> NDArray[np.float32]:
        """Return features float32 [N,D] of picture files, in their order.

        Raises UserError, which lists the pictures that cannot be read or whose features are not finite.
        """
        with ThreadPoolExecutor() as pool:
            hashes = list(pool.map(h5.file_sha256, paths))
            self.sha256.update(zip(paths, hashes, strict=True))
            self._store.load(hashes)
            new = {sha: path for sha, path in zip(hashes, paths, strict=True) if sha not in self._store}
            with report.progress("features", total=len(new)) as task:
                problems = self._compute(list(new.items()), pool, task)
        if problems:
            more = [f"and {len(problems) - SHOWN} more"] * (len(problems) > SHOWN)
            message = f"{len(problems)} of {len(paths)} pictures cannot be scored"
            raise UserError(message, problems=[*problems[:SHOWN], *more])
        return self._store.rows(hashes)

    def _compute(self, items: Group, pool: ThreadPoolExecutor, task: Task) -> list[str]:
        """Compute and cache the features of (sha256, path) items; return the problems."""
        problems: list[str] = []
        shard: list[tuple[str, str, NDArray[np.float32]]] = []
        for group, pictures in self._batches(items, pool, problems):
            features = self.extractor(pictures)
            for (sha, path), row in zip(group, features, strict=True):
                if np.isfinite(row).all():
                    shard.append((path.name, sha, row))
                else:
                    problems.append(f"{path}: {self.extractor.name} returns features that are not finite")
            task.advance(len(group))
            if len(shard) >= SHARD:
                self._keep(shard)
        self._keep(shard)
        return problems

    def _keep(self, shard: list[tuple[str, str, NDArray[np.float32]]]) -> None:
        """Move a shard of (name, sha256, features) to the cache."""
        if shard:
            names, hashes, rows = zip(*shard, strict=True)
            self._store.add(names, hashes, np.stack(rows))
            shard.clear()

    def _batches(
        self, items: Group, pool: ThreadPoolExecutor, problems: list[str]
    ) -> Iterator[tuple[Group, NDArray[Any]]]:
        """Yield batches of pictures [N,H,W,3] while the next is being read; unreadable ones become problems."""
        groups = [items[i : i + self.batch] for i in range(0, len(items), self.batch)]
        ahead = [pool.submit(_read, path, self.size, self.resize) for _, path in groups[0]] if groups else []
        for i, group in enumerate(groups):
            pending = ahead
            ahead = (
                [pool.submit(_read, path, self.size, self.resize) for _, path in groups[i + 1]]
                if i + 1 < len(groups)
                else []
            )
            read: Group = []
            pictures: list[NDArray[Any]] = []
            for item, future in zip(group, pending, strict=True):
                try:
                    pictures.append(future.result())
                    read.append(item)
                except UserError as e:
                    problems.append(e.line)
            if read:
                yield read, np.stack(pictures)


def _read(path: Path, size: tuple[int, int], resize: Resize) -> NDArray[Any]:
    from ..data.masks import read_photo, resize_photo

    photo = read_photo(path)
    if resize == "clean":
        return _resize_unrounded(photo, size)
    return photo if photo.shape[:2] == size else resize_photo(photo, size)


def _resize_unrounded(photo: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize a photo uint8 [H,W,3] to float32 without rounding: bicubic with antialiasing, channel by channel."""
    from PIL import Image

    channels = (Image.fromarray(photo[..., i].astype(np.float32)) for i in range(3))
    return np.stack([np.asarray(c.resize(size[::-1], Image.Resampling.BICUBIC)) for c in channels], axis=2)
