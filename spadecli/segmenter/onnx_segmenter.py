"""ONNX segmenters.

The contract: one input, float32 or float16 [N,3,H,W], of ``(pixel / 255 - mean) / std``; the first output is the
logits [N,K,h,w]. N, H and W may be fixed in the graph. mean and std (default 0 and 1), ``size`` and ``bgr`` are given
under [input] in the mapping file, or in MODEL.toml beside MODEL.onnx. An output called "features", [N,D] or [N,D,h,w],
is used for Fréchet distances.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..compute.devices import onnxruntime_providers
from ..core.errors import BackendUnavailable, UserError
from ..core.labelspace import LabelSpace
from ..store.h5 import file_sha256
from .card import SegmenterCard
from .class_mapping import ClassMapping, InputSection, channel_table, read_mapping
from .logits import best_class, check_images, to_size

FEATURES = "features"
DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxSegmenter:
    """An ONNX file that follows the contract above; see :class:`.interface.Segmenter`.

    Raises UserError if the file is damaged, breaks the contract or does not fit the class mapping;
    BackendUnavailable without onnxruntime.
    """

    def __init__(self, path: Path, device: str, mapping: Path | None, labels: LabelSpace | None) -> None:
        if not path.is_file():
            raise UserError(f"{path}: no such segmenter file")
        self._path = path
        self.card: SegmenterCard | None = None
        self.name, self.sha256 = path.stem, file_sha256(path)
        sidecar = path.with_suffix(".toml")
        read = read_mapping(mapping or sidecar) if mapping or sidecar.is_file() else None
        self._wanted = read.input if read else InputSection()
        self._session = _open(path, device)
        self._check_contract()
        self._classes = self._count_classes()
        self.labels, self._channels = channel_table(str(path), self._names(read), read, labels)

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """See :meth:`Segmenter.predict`."""
        check_images(images)
        size = (images.shape[1], images.shape[2])
        maps = [self._channels[best_class(torch.from_numpy(part), size)] for part in self._run(images, self._logits)]
        return np.concatenate(maps)[: len(images)] if maps else np.zeros(images.shape[:3], np.uint8)

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See :meth:`Segmenter.features`: the output called "features", pooled if need be."""
        check_images(images)
        if FEATURES not in {o.name for o in self._session.get_outputs()}:
            raise UserError(
                f"{self._path}: has no output {FEATURES!r} to measure a distance in",
                hint="give an --extractor",
            )
        rows = [part.reshape(*part.shape[:2], -1).mean(2) for part in self._run(images, FEATURES)]
        return np.concatenate(rows)[: len(images)].astype(np.float32)

    def _run(self, images: NDArray[np.uint8], output: str) -> list[NDArray[np.float32]]:
        """Compute one output in chunks of the graph's batch size (one picture at a time if it is dynamic)."""
        chunk = self._fixed[0] or 1
        answers = []
        for i in range(0, len(images), chunk):
            batch = self._prepare(images[i : i + chunk])
            missing = chunk - len(batch)
            if missing:  # a fixed batch is padded with the last picture, whose extra results are dropped
                batch = np.concatenate([batch, np.repeat(batch[-1:], missing, 0)])
            answers.append(self._call(batch, output))
        return answers

    def _prepare(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        pictures = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float() / 255
        fixed_h, fixed_w = self._fixed[1:]
        height, width = self._wanted.size or (fixed_h or images.shape[1], fixed_w or images.shape[2])
        pictures = to_size(pictures, (height, width))
        mean, std = torch.tensor(self._wanted.mean).view(3, 1, 1), torch.tensor(self._wanted.std).view(3, 1, 1)
        if self._wanted.bgr:
            pictures = pictures.flip(1)
        prepared: NDArray[Any] = ((pictures - mean) / std).numpy().astype(self._dtype)
        return prepared

    def _call(self, batch: NDArray[Any], output: str) -> NDArray[np.float32]:
        try:
            (answer,) = self._session.run([output], {self._input: batch})
        except Exception as e:  # onnxruntime has its own exception classes
            line = str(e).strip().splitlines()[-1]
            raise UserError(
                f"{self._path}: fails on pictures {batch.dtype} {list(batch.shape)}: {line}",
                hint="size = [HEIGHT, WIDTH] under [input] in the mapping file resizes them",
            ) from e
        return np.asarray(answer, np.float32)

    def _check_contract(self) -> None:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        first = inputs[0]
        problems = []
        if len(inputs) != 1 or first.type not in DTYPES or len(first.shape) != 4 or first.shape[1] not in (3, None):
            found = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
            problems.append(f"inputs {found}; expected one float [N,3,H,W]")
        if len(outputs[0].shape) != 4:
            problems.append(f"first output {outputs[0].name} {outputs[0].shape}; expected logits [N,K,h,w]")
        if problems:
            raise UserError(f"{self._path}: not a segmenter that this program can run", problems=problems)
        self._input, self._logits, self._dtype = first.name, outputs[0].name, DTYPES[first.type]
        # names and None stand for dynamic sizes
        self._fixed = tuple(d if isinstance(d, int) and d > 0 else None for d in (first.shape[0], *first.shape[2:]))

    def _count_classes(self) -> int:
        """Return K; if the graph does not declare it, segment a grey picture to find out."""
        declared = self._session.get_outputs()[0].shape[1]
        if isinstance(declared, int):
            return declared
        side = [self._fixed[1] or 64, self._fixed[2] or 64]
        return int(self._run(np.full((1, *side, 3), 128, np.uint8), self._logits)[0].shape[1])

    def _names(self, read: ClassMapping | None) -> list[str]:
        if read is None or not read.names:
            return [str(i) for i in range(self._classes)]
        if len(read.names) != self._classes:
            raise UserError(f"{read.file}: {len(read.names)} names, but {self._path} has {self._classes} classes")
        return list(read.names)


def _open(path: Path, device: str) -> Any:
    try:
        import onnxruntime
    except ImportError as e:
        raise BackendUnavailable(f"{path}: onnxruntime is not installed", hint="pip install onnxruntime") from e
    _, providers = onnxruntime_providers(onnxruntime, device)
    try:
        return onnxruntime.InferenceSession(str(path), providers=providers)
    except Exception as e:  # onnxruntime has its own exception classes
        line = str(e).strip().splitlines()[-1]
        raise UserError(f"{path}: not an ONNX file that onnxruntime can load ({line})") from e
