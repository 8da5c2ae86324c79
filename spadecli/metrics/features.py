"""Features of pictures: TorchScript extractors, run in batches, each picture once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import BackendUnavailable, UserError
from ..core.report import Report, Task
from ..store import h5
from ..store.features import FeatureStore

if TYPE_CHECKING:
    import torch

INCEPTION_DIMENSIONS = 2048
RESIZE_FILTER = "bicubic, antialiased (Pillow)"
SHARD = 2048  # pictures per file of the store: what a stopped run loses at most

Group = list[tuple[str, Path]]  # (sha256, file)


@dataclass(frozen=True)
class Extractor:
    """A TorchScript network from pictures to features.

    Plain extractors are called ``module(uint8 [N,3,H,W] in 0..255) -> [N,D]``. The FID Inception is NVIDIA's file:
    ``module(uint8 [N,3,H,W], return_features=True) -> [N,2048]``. Both resize inside as they need.
    """

    module: Any
    path: Path
    sha256: str
    dimensions: int
    inception: bool
    device: torch.device

    @property
    def name(self) -> str:
        """The file's name without suffixes, or FID Inception."""
        return "FID Inception" if self.inception else self.path.name.split(".")[0]

    @property
    def frechet_name(self) -> str:
        """What a Fréchet distance in these features may be called."""
        return "FID" if self.inception else f"Fréchet distance ({self.name})"

    @property
    def kernel_name(self) -> str:
        """What a kernel distance in these features may be called."""
        return "KID" if self.inception else f"kernel distance ({self.name})"

    def __call__(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features float32 [N,D] of pictures uint8 [N,H,W,3].

        Raises UserError where the network fails on them or answers in another shape.
        """
        features = _features(self.module, pictures, self.inception, self.device)
        if features.shape != (len(pictures), self.dimensions):
            expected = [len(pictures), self.dimensions]
            raise UserError(f"{self.path}: answered with shape {list(features.shape)}, expected {expected}")
        return features


def open_extractor(path: Path, inception: bool = False, device: str = "auto") -> Extractor:
    """Open a TorchScript extractor; ``inception``: it has to be the FID Inception, and behave like it.

    Raises UserError where the file is missing, is no TorchScript, or does not answer with features [N,D];
    BackendUnavailable where there is no such device.
    """
    import torch

    if not path.is_file():
        raise UserError(f"{path}: no such extractor file")
    target = _device(device)
    try:
        jit: Any = torch.jit  # only in part typed
        module = jit.load(str(path), map_location=target).eval()
    except (RuntimeError, ValueError) as e:
        line = str(e).strip().splitlines()[0]
        raise UserError(f"{path}: not a TorchScript file ({line})", hint="save it with torch.jit.save") from e
    if inception and not _has_argument(module, "return_features"):
        raise UserError(
            f"{path}: not the FID Inception: its forward has no argument return_features",
            hint="give other extractors with --extractor; their distance is not called FID",
        )
    probe = np.random.RandomState(0).randint(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    try:
        shape = _features(module, probe, inception, target).shape
    except UserError as e:
        raise UserError(f"{path}: {e.message}") from e
    if len(shape) != 2 or shape[0] != 2 or not shape[1]:
        raise UserError(f"{path}: answered [2,3,64,64] with shape {list(shape)}, expected features [2,D]")
    if inception and shape[1] != INCEPTION_DIMENSIONS:
        raise UserError(f"{path}: not the FID Inception: {shape[1]} features instead of {INCEPTION_DIMENSIONS}")
    return Extractor(module, path, h5.file_sha256(path), shape[1], inception, target)


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise UserError(f"--device {name}: expected auto, cpu, cuda or cuda:N") from e
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailable(f"--device {name}: this torch sees no CUDA device", hint="use --device cpu")
    return device


def _has_argument(module: Any, name: str) -> bool:
    return any(argument.name == name for argument in module.forward.schema.arguments)


def _features(module: Any, pictures: NDArray[np.uint8], inception: bool, device: torch.device) -> NDArray[np.float32]:
    """One call of the network, in full float32 precision; its answer as it is."""
    import torch

    batch = torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).to(device)
    options = {"return_features": True} if inception else {}
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    jit: Any = torch.jit  # only in part typed
    try:
        with torch.inference_mode(), exact, jit.optimized_execution(False):
            answer = module(batch, **options)
    except RuntimeError as e:
        line = str(e).strip().splitlines()[-1]
        raise UserError(f"the extractor fails on pictures uint8 {list(batch.shape)}: {line}") from e
    if not isinstance(answer, torch.Tensor):
        raise UserError(f"the extractor answers with {type(answer).__name__} instead of a tensor [N,D]")
    features: NDArray[np.float32] = answer.float().cpu().numpy()
    return features


class FeatureReader:
    """Features of picture files in one protocol: an extractor and a size (height, width).

    Features are kept under ``cache`` by content; a picture that was read before is not computed again.
    ``sha256`` holds the hash of every file that was read.
    """

    def __init__(self, extractor: Extractor, size: tuple[int, int], cache: Path, batch: int = 32) -> None:
        self.extractor, self.size, self.batch = extractor, size, batch
        self.sha256: dict[Path, str] = {}
        kind = "inception" if extractor.inception else "plain"
        folder = cache / "features" / f"{extractor.sha256[:16]}-{kind}-{size[0]}x{size[1]}"
        config = {
            "extractor": extractor.name,
            "extractor_sha256": extractor.sha256,
            "size": list(size),
            "resize": RESIZE_FILTER,
        }
        self._store = FeatureStore(folder, config)

    def read(self, paths: Sequence[Path], report: Report) -> NDArray[np.float32]:
        """Features float32 [N,D] of picture files, in their order.

        Raises UserError that lists every picture that cannot be read or whose features are not finite.
        """
        with ThreadPoolExecutor() as pool:
            hashes = list(pool.map(h5.file_sha256, paths))
            self.sha256.update(zip(paths, hashes, strict=True))
            self._store.load(hashes)
            new = {sha: path for sha, path in zip(hashes, paths, strict=True) if sha not in self._store}
            with report.progress("features", total=len(new)) as task:
                problems = self._compute(list(new.items()), pool, task)
        if problems:
            raise UserError(f"{len(problems)} of {len(paths)} pictures cannot be scored", problems=problems)
        return self._store.rows(hashes)

    def _compute(self, items: Group, pool: ThreadPoolExecutor, task: Task) -> list[str]:
        """Compute and keep the features of (sha256, path) items; returns what went wrong."""
        problems: list[str] = []
        shard: list[tuple[str, str, NDArray[np.float32]]] = []
        for group, pictures in self._batches(items, pool, problems):
            features = self.extractor(pictures)
            for (sha, path), row in zip(group, features, strict=True):
                if np.isfinite(row).all():
                    shard.append((path.name, sha, row))
                else:
                    problems.append(f"{path}: {self.extractor.name} answers with features that are not finite")
            task.advance(len(group))
            if len(shard) >= SHARD:
                self._keep(shard)
        self._keep(shard)
        return problems

    def _keep(self, shard: list[tuple[str, str, NDArray[np.float32]]]) -> None:
        """Move a shard of (name, sha256, features) to the store."""
        if shard:
            names, hashes, rows = zip(*shard, strict=True)
            self._store.add(names, hashes, np.stack(rows))
            shard.clear()

    def _batches(
        self, items: Group, pool: ThreadPoolExecutor, problems: list[str]
    ) -> Iterator[tuple[Group, NDArray[np.uint8]]]:
        """Pictures uint8 [N,H,W,3] in batches, the next being read meanwhile; unreadable ones become problems."""
        groups = [items[i : i + self.batch] for i in range(0, len(items), self.batch)]
        ahead = [pool.submit(_read, path, self.size) for _, path in groups[0]] if groups else []
        for i, group in enumerate(groups):
            pending = ahead
            ahead = [pool.submit(_read, path, self.size) for _, path in groups[i + 1]] if i + 1 < len(groups) else []
            read: Group = []
            pictures: list[NDArray[np.uint8]] = []
            for item, future in zip(group, pending, strict=True):
                try:
                    pictures.append(future.result())
                    read.append(item)
                except UserError as e:
                    problems.append(e.line)
            if read:
                yield read, np.stack(pictures)


def _read(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    from ..data.masks import read_photo, resize_photo

    photo = read_photo(path)
    return photo if photo.shape[:2] == size else resize_photo(photo, size)
