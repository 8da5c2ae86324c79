"""Opening segmenters of every kind, and the segmenter that spade trains itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UserError
from ..core.labelspace import LabelSpace
from ..store.h5 import file_sha256
from .card import SegmenterCard
from .interface import Segmenter
from .predictions import FolderPredictions

if TYPE_CHECKING:
    import torch

AnySegmenter = Segmenter | FolderPredictions
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def open_segmenter(
    source: str | Path, device: str = "auto", mapping: Path | None = None, labels: LabelSpace | None = None
) -> AnySegmenter:
    """Open a segmenter, or a folder of label maps that stands for one.

    source: weights of ``spade train-segmenter`` (.safetensors); an ONNX file; a transformers model, as a folder or
        by its name on the hub; or a folder of label maps predicted elsewhere.
    mapping: a TOML file that maps its classes to ours (see :mod:`spadecli.segmenter.class_mapping`), for foreign
        segmenters only.
    labels: the label space that is scored, if the mapping names none. Classes are matched by name.

    Raises UserError if the source is missing, of unknown kind or does not fit the mapping; BackendUnavailable, with the
    command that installs it, if the package that runs it is missing.
    """
    path = Path(source)
    if path.suffix == ".safetensors":
        if mapping is not None:
            raise UserError(
                f"{mapping}: {path} predicts the classes in its card; a class mapping is for foreign models"
            )
        return OwnSegmenter(path, device)
    if path.suffix == ".onnx":
        from .onnx_segmenter import OnnxSegmenter

        return OnnxSegmenter(path, device, mapping, labels)
    if path.is_dir() and not (path / "config.json").is_file():
        return FolderPredictions(path, _space_of_predictions(path, mapping, labels))
    if path.is_dir() or (not path.exists() and HUB_NAME.fullmatch(str(source))):
        from .transformers_segmenter import TransformersSegmenter

        return TransformersSegmenter(str(source), device, mapping, labels)
    if not path.exists():
        raise UserError(f"{source}: no such segmenter file or folder, and not the name of a model on the hub")
    raise UserError(
        f"{path}: unknown kind of segmenter",
        hint="expected .safetensors of spade train-segmenter, .onnx, the folder of a transformers model, or a folder "
        "of predicted label maps",
    )


def _space_of_predictions(path: Path, mapping: Path | None, labels: LabelSpace | None) -> LabelSpace:
    from .class_mapping import read_mapping

    space = read_mapping(mapping).labels if mapping is not None else None
    if space is None and labels is None:
        raise UserError(
            f"{path}: the label space of these label maps is not known",
            hint='name it in a mapping file, recipe = "facades", or give the masks to compare with',
        )
    return space or labels  # type: ignore[return-value]


class OwnSegmenter:
    """Weights of ``spade train-segmenter``; see :class:`.interface.Segmenter`.

    Pictures of any size are resized to the card's size (bilinear, antialiased), and the logits back to theirs
    (bilinear) before the best class is chosen. Computed in float32 on any device, and on a CPU one picture at a time,
    so that a prediction does not depend on the rest of the batch.
    """

    def __init__(self, path: Path, device: str = "auto") -> None:
        from ..compute.devices import pick_device
        from .file import load_segmenter

        self._device = pick_device(device)
        self.card: SegmenterCard | None
        own_card, net = load_segmenter(path)
        self.card, self._arch = own_card, own_card.architecture
        self._net = net.to(self._device)
        self.name = path.stem
        self.sha256 = file_sha256(path)
        self.labels = own_card.labels
        self._chunk = 1 if self._device.type == "cpu" else 16

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """See :meth:`Segmenter.predict`."""
        from .logits import best_class

        size = (images.shape[1], images.shape[2])
        unknown = self.labels.unknown_channel
        found = [best_class(self._run(part, self._net), size, unknown) for part in self._parts(images)]
        return np.concatenate(found) if found else np.zeros(images.shape[:3], np.uint8)

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See :meth:`Segmenter.features`; a feature vector is the mean of the network's lowest level."""
        rows = [self._run(part, self._net.features).cpu().numpy() for part in self._parts(images)]
        return np.concatenate(rows) if rows else np.zeros((0, self._arch.feature_dimensions), np.float32)

    def _parts(self, images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        from .logits import check_images

        check_images(images)
        for i in range(0, len(images), self._chunk):
            yield images[i : i + self._chunk]

    def _run(self, images: NDArray[np.uint8], function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        import torch

        from ..compute.devices import exact_math
        from .logits import to_size

        with torch.inference_mode(), exact_math():
            pictures = torch.from_numpy(np.ascontiguousarray(images)).to(self._device).permute(0, 3, 1, 2).float() / 255
            return function(to_size(pictures, self._arch.size))
