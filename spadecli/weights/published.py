"""The published NVlabs models: their options and label spaces, which their files do not contain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..core.architecture import Upsampling
from ..core.labelspace import LabelSpace
from ..core.recipe_files import find_recipe, load_recipe

Preset = Literal["coco", "ade20k", "cityscapes", "facades"]


@dataclass(frozen=True)
class Published:
    """Options that a published model was trained with. recipe: the recipe with the names and colours of its classes."""

    num_classes: int
    dont_care: bool
    instance: bool
    crop_size: int = 256
    aspect: float = 1.0
    upsampling: Upsampling = "normal"
    norm: str = "spectralspadesyncbatch3x3"
    recipe: str = ""


# semantic channels: 184, 151, 36 and 13, as in the published code
PRESETS: dict[Preset, Published] = {
    "coco": Published(182, dont_care=True, instance=True, recipe="coco-stuff"),
    "ade20k": Published(150, dont_care=True, instance=False, recipe="ade20k"),
    "cityscapes": Published(
        35, dont_care=False, instance=True, crop_size=512, aspect=2.0, upsampling="more", recipe="cityscapes"
    ),
    "facades": Published(13, dont_care=False, instance=False),
}


def published_labels(published: Published) -> LabelSpace:
    """Return the recipe's label space, with every file value that the published code accepts."""
    labels = load_recipe(find_recipe(published.recipe)).recipe.labels
    if not published.dont_care:
        return labels
    # the published code maps 255 to the channel after num_classes: COCO-Stuff's unlabeled, but ADE20K's last class
    # (ADE20K's files use 0 for unknown, and never 255)
    channel = published.num_classes
    last = labels.classes[channel]
    values = tuple(dict.fromkeys((*last.values, 255)))
    classes = (*labels.classes[:channel], last.model_copy(update={"values": values}), *labels.classes[channel + 1 :])
    return labels.model_copy(update={"classes": classes})
