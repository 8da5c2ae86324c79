"""The packed data set: one HDF5 file of photos, label maps and instance maps, all of one size."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..core.labelspace import LabelSpace
from ..store import h5

KIND = "packed"

Sample = tuple[NDArray[np.uint8], NDArray[np.uint32] | None, NDArray[np.uint8]]


class Packed:
    """A packed file, opened for reading.

    ``names``: keys of the samples (relative path without suffix), ascending. ``size``: (height, width).
    ``sha256``: digest of names and pixels, independent of how they were packed.
    Each process opens the file when it first reads a sample, so that the object can be sent to data loader workers.
    Raises UserError if the file is missing, damaged or of another format.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        with h5.open_read(self.path, KIND) as f:
            self.config = h5.config_of(f)
            self.source_sha256 = str(f.attrs["source_sha256"])
            self.sha256 = str(f.attrs["content_sha256"])
            self.report: dict[str, Any] = json.loads(str(f.attrs["report_json"]))
            self.names: list[str] = [n.decode() for n in f["name"][:]]
            self.size: tuple[int, int] = (int(f["label"].shape[1]), int(f["label"].shape[2]))
            self.has_instances = "instance" in f
        self.labels = LabelSpace.model_validate(self.config["labels"])
        self._file: h5py.File | None = None
        self._pid = 0

    def __len__(self) -> int:
        return len(self.names)

    def get(self, i: int) -> Sample:
        """Read sample ``i``: label codes uint8 [H,W], instance ids uint32 [H,W] or None, photo uint8 [H,W,3]."""
        f = self._open()
        instances = f["instance"][i] if self.has_instances else None
        return f["label"][i], instances, f["photo"][i]

    def close(self) -> None:
        """Close the file; a later ``get`` opens it again."""
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
        self._file = None

    def _open(self) -> h5py.File:
        # a handle inherited by fork shares its file position with the parent: dropped without being used
        if self._file is None or self._pid != os.getpid():
            self._file, self._pid = h5.open_read(self.path, KIND), os.getpid()
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


class PackedWriter:
    """Writes samples one by one, holding only one in memory; created by :func:`create_packed`."""

    def __init__(self, f: h5py.File, capacity: int, size: tuple[int, int], instances: bool) -> None:
        self._file = f
        self._label = h5.images_dataset(f, "label", (capacity, *size), "u1", gzip=True)
        self._photo = h5.images_dataset(f, "photo", (capacity, *size, 3), "u1")
        self._instance = h5.images_dataset(f, "instance", (capacity, *size), "u4", gzip=True) if instances else None
        self._names: list[str] = []
        self._digest = hashlib.sha256()

    def add(self, name: str, sample: Sample) -> None:
        """Append a sample: label codes uint8 [H,W], instance ids uint32 [H,W] or None, photo uint8 [H,W,3]."""
        row = len(self._names)
        self._names.append(name)
        self._digest.update(f"{name}\0".encode())
        for dataset, pixels in zip((self._label, self._instance, self._photo), sample, strict=True):
            if dataset is not None and pixels is not None:
                dataset[row] = pixels
                self._digest.update(pixels.tobytes())

    def finish(self, report: Mapping[str, Any]) -> str:
        """Write names, report and digest, and drop unused rows. Returns the SHA-256 of the content."""
        for dataset in (self._label, self._instance, self._photo):
            if dataset is not None:
                dataset.resize(len(self._names), axis=0)
        h5.names(self._file, self._names)
        self._file.attrs["content_sha256"] = self._digest.hexdigest()
        self._file.attrs["report_json"] = json.dumps(report)
        return self._digest.hexdigest()


@contextmanager
def create_packed(
    path: Path, capacity: int, instances: bool, config: Mapping[str, Any], source_sha256: str
) -> Iterator[PackedWriter]:
    """Write a packed file of at most ``capacity`` samples; it is renamed to ``path`` when the block succeeds.

    config: holds "labels" (a LabelSpace as JSON) and "size" [height, width]. Call ``finish`` in the block.
    """
    with h5.create(path, KIND, config, source_sha256) as f:
        yield PackedWriter(f, capacity, tuple(config["size"]), instances)
