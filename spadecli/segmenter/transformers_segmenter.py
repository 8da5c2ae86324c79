"""Semantic segmentation models of the transformers library, such as SegFormer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..compute.devices import exact_math, pick_device
from ..core.errors import BackendUnavailable, UserError
from ..core.labelspace import LabelSpace
from ..store.h5 import file_sha256, source_digest
from .card import SegmenterCard
from .class_mapping import channel_table, read_mapping
from .logits import best_class, check_images, to_size

INSTALL = 'pip install "spadecli[segmenter]"'
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
WEIGHTS = ("*.safetensors", "*.bin")


class TransformersSegmenter:
    """A semantic segmentation model from a local folder, or from the hub by name; see :class:`.interface.Segmenter`.

    Pictures are resized (bilinear, antialiased) and normalized as preprocessor_config.json says; by default they keep
    their size, and are normalized with ImageNet's mean and standard deviation. The logits are resized back (bilinear)
    before the best class is chosen. A feature vector is the mean of the last hidden state.
    """

    def __init__(self, source: str, device: str, mapping: Path | None, labels: LabelSpace | None) -> None:
        transformers = _library(source)
        folder = Path(source) if Path(source).is_dir() else _fetch(source)
        self._source, self._device = source, pick_device(device)
        self.card: SegmenterCard | None = None
        self.name = Path(source).name
        files = [p for pattern in ("config.json", *WEIGHTS) for p in sorted(folder.glob(pattern))]
        self.sha256 = source_digest((p.name, file_sha256(p)) for p in files)
        self._model = _load(transformers, source, folder).to(self._device).eval()
        self._mean, self._std, self._size = _preprocessing(folder)
        names = self._model.config.id2label
        theirs = [str(names[i]) for i in range(len(names))]
        read = read_mapping(mapping) if mapping is not None else None
        self.labels, self._channels = channel_table(source, theirs, read, labels)

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """See :meth:`Segmenter.predict`."""
        size = (images.shape[1], images.shape[2])
        maps = [self._channels[best_class(part, size)] for part in self._run(images, lambda answer: answer.logits)]
        return np.concatenate(maps) if maps else np.zeros(images.shape[:3], np.uint8)

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See :meth:`Segmenter.features`."""
        rows = [part.float().cpu().numpy() for part in self._run(images, self._pooled, output_hidden_states=True)]
        return np.concatenate(rows) if rows else np.zeros((0, 0), np.float32)

    def _pooled(self, answer: Any) -> Tensor:
        states = getattr(answer, "hidden_states", None)
        last: Tensor | None = states[-1] if states else None
        if last is None or last.ndim not in (3, 4):
            raise UserError(
                f"{self._source}: {type(self._model).__name__} has no hidden states to measure a distance in",
                hint="give an --extractor",
            )
        return last.mean((2, 3)) if last.ndim == 4 else last.mean(1)

    def _run(self, images: NDArray[np.uint8], take: Callable[[Any], Tensor], **more: bool) -> Iterator[Tensor]:
        """Yield ``take(output)`` of the model's output for each picture."""
        check_images(images)
        mean, std = (torch.tensor(v, device=self._device).view(3, 1, 1) for v in (self._mean, self._std))
        for image in images:
            with torch.inference_mode(), exact_math():
                picture = torch.from_numpy(image.copy()).to(self._device).permute(2, 0, 1)[None].float() / 255
                picture = to_size(picture, self._size) if self._size else picture
                yield take(self._model(pixel_values=(picture - mean) / std, **more))


def _library(source: str) -> Any:
    try:
        import transformers
    except ImportError as e:
        raise BackendUnavailable(f"{source}: transformers is not installed", hint=INSTALL) from e
    return transformers


def _fetch(name: str) -> Path:
    """Return a model's folder in the hub's cache, downloading it if needed."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as e:  # offline, unknown or private: each has its own exception class
        line = str(e).strip().splitlines()[0]
        raise UserError(
            f"{name}: no such folder, and it could not be fetched from the hub ({line})",
            hint="download the model elsewhere and give its folder",
        ) from e


def _load(transformers: Any, source: str, folder: Path) -> Any:
    """Load the model in float32, without running code from the folder."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        model = transformers.AutoModelForSemanticSegmentation.from_pretrained(
            str(folder), local_files_only=True, dtype=torch.float32, trust_remote_code=False
        )
    except Exception as e:  # a damaged or foreign folder may fail anywhere in the library
        line = str(e).strip().splitlines()[0]
        raise UserError(
            f"{source}: transformers cannot load it as a model for semantic segmentation ({line})",
            hint="expected a model such as SegFormer, whose output has logits [N,K,h,w]",
        ) from e
    return model


def _preprocessing(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...], tuple[int, int] | None]:
    """Read mean and standard deviation for pictures in 0..1, and the size (height, width) or None for any."""
    path = folder / "preprocessor_config.json"
    try:
        config = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    except ValueError as e:
        raise UserError(f"{path}: not valid JSON ({e})") from e
    mean, std = IMAGENET
    if not config.get("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    else:
        mean, std = config.get("image_mean", mean), config.get("image_std", std)
    size = config.get("size") if config.get("do_resize", True) else None
    if isinstance(size, int):
        return tuple(mean), tuple(std), (size, size)
    if isinstance(size, dict) and {"height", "width"} <= size.keys():
        return tuple(mean), tuple(std), (int(size["height"]), int(size["width"]))
    return tuple(mean), tuple(std), None
