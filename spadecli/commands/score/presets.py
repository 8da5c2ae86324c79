"""``--protocol``: what published evaluations did, as far as it is documented, and what is not known of it.

Every fact has its source beside it. What a preset cannot set (the data, the segmentation network) is said in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ...metrics.confusion import Absent
from ...metrics.features import Resize
from .sets import Samples

Name = Literal["spade-paper", "oasis", "clean"]
LabelResize = Literal["to-image", "to-mask"]

LABEL_RESIZE_WORDS: Mapping[LabelResize, str] = {
    "to-image": "masks to the picture's size, nearest",
    "to-mask": "predictions to the mask's size, nearest",
}


@dataclass(frozen=True)
class Preset:
    """Settings of an evaluation. ``facts``: documented, with source; ``uncertain``: what nobody documented."""

    samples: Samples
    resize: Resize
    label_resize: LabelResize
    absent: Absent
    facts: tuple[str, ...]
    uncertain: tuple[str, ...]
    wants: tuple[Literal["FID", "mIoU"], ...]


_TORCHSCRIPT = (
    "the Inception here is NVIDIA's TorchScript of the 2015 network; pytorch-fid's port resizes in its own way, and "
    "its distances may differ in the decimals"
)

PRESETS: Mapping[Name, Preset] = {
    "spade-paper": Preset(
        samples="first",
        resize="bytes",
        label_resize="to-image",
        absent="if-predicted",
        facts=(
            "set: the validation images of each data set, one render of each mask, at the training size: 256x256, "
            "Cityscapes 256x512 (paper, section 4)",
            "FID with mseitzer/pytorch-fid (the authors, github.com/NVlabs/SPADE/issues/14)",
            "segmenters: DeepLabV2 on COCO-Stuff, UperNet101 on ADE20K, DRN-D-105 on Cityscapes (paper, section 4)",
        ),
        uncertain=(
            "the evaluation code was not published",
            "how photographs were resized for FID: here bicubic, as the published data loader does",
            "how label maps were resized, and at which size mIoU was taken",
            "whether pixels without a class count in the pixel accuracy: the paper has 81.9 on Cityscapes, others "
            "measured 93.5 with the published weights and without them (github.com/Seanseattle/SMIS/issues/6)",
            "how absent classes count: here as DRN's script does, over the classes that either side has",
            _TORCHSCRIPT,
        ),
        wants=("FID", "mIoU"),
    ),
    "oasis": Preset(
        samples="first",
        resize="bytes",
        label_resize="to-image",
        absent="if-predicted",
        facts=(
            "set: all validation images, one render of each of their masks (published code, utils/fid_scores.py)",
            "photographs are resized to the render's size, bicubic (published code, dataloaders/)",
            "FID with an adapted mseitzer/pytorch-fid (published code, README)",
            "mIoU at the size of the render, label maps downsampled by nearest neighbour "
            "(the authors, github.com/boschresearch/OASIS/issues/5)",
            "segmenters: UperNet101 on ADE20K, multi-scale DRN-D-105 on Cityscapes, DeepLabV2 on COCO-Stuff (paper)",
        ),
        uncertain=(
            "the code that took mIoU was not published: how absent and ignored classes count is not known",
            "which weights of DRN-D-105 (github.com/boschresearch/OASIS/issues/18, unanswered)",
            _TORCHSCRIPT,
        ),
        wants=("FID", "mIoU"),
    ),
    "clean": Preset(
        samples="all",
        resize="clean",
        label_resize="to-image",
        absent="left-out",
        facts=(
            "every picture of either folder, from its own size to 299x299: bicubic with antialiasing (Pillow), each "
            "channel in floating point, not rounded (clean-fid, resize.py)",
            "NVIDIA's TorchScript Inception without its own resizing, on (x - 128) / 128 (clean-fid, "
            "inception_torchscript.py)",
            "KID: mean over 100 subsets of at most 1000 pictures (clean-fid, fid.py)",
        ),
        uncertain=("it says nothing about mIoU",),
        wants=("FID",),
    ),
}
