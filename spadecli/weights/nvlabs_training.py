"""NVlabs checkpoints as the start of training: options derived from their keys, and the discriminator."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..core.architecture import Architecture
from ..core.errors import UserError
from ..core.labelspace import LabelSpace
from ..core.recipe import DiscriminatorSection
from .nvlabs import NVlabsOptions, read_checkpoint

GENERATOR_NAME = re.compile(r"^(.+)_net_G\.pth$")
FIRST_CONV = "head_0.norm_0.mlp_shared.0.weight"


class SiblingFiles(NamedTuple):
    """Encoder and discriminator files of the same epoch beside a generator's; None if missing."""

    encoder: Path | None
    discriminator: Path | None


def files_beside(generator: Path) -> SiblingFiles:
    """Find ``latest_net_E.pth`` and ``latest_net_D.pth`` beside ``latest_net_G.pth``."""
    match = GENERATOR_NAME.match(generator.name)
    if match is None:
        return SiblingFiles(None, None)
    paths = [generator.with_name(f"{match[1]}_net_{part}.pth") for part in "ED"]
    return SiblingFiles(*(path if path.is_file() else None for path in paths))


def semantic_channels(path: Path) -> int:
    """Return the semantic channels that a generator was trained on. Raises UserError if it is not a SPADE generator."""
    state = read_checkpoint(path)
    if FIRST_CONV not in state or state[FIRST_CONV].ndim != 4:
        hint = "give the generator's file (NAME_net_G.pth); encoder and discriminator are found beside it"
        raise UserError(f"{path}: not a SPADE generator ({FIRST_CONV}: missing)", hint=hint)
    return state[FIRST_CONV].shape[1]


def options_for(path: Path, labels: LabelSpace, wanted: Architecture) -> NVlabsOptions:
    """Derive a generator's options from its keys; the aspect and the kind of upsampling are those of ``wanted``.

    The crop size follows from the first layer if that is linear; otherwise it leaves no trace and is that of
    ``wanted``.
    """
    state = read_checkpoint(path)
    height, width = wanted.size
    crop = width
    widest = next((state[k] for k in ("head_0.conv_0.weight_orig", "head_0.conv_0.weight") if k in state), None)
    fc = state.get("fc.weight")
    if fc is not None and fc.ndim == 2 and widest is not None:
        rows, columns = wanted.start_grid
        cells = fc.shape[0] / widest.shape[1]
        crop = round(columns * (cells / (rows * columns)) ** 0.5) * wanted.stride
    spectral = "spectral" if any(k.endswith("weight_orig") for k in state) else ""
    batch = any(k.endswith("param_free_norm.running_mean") for k in state)
    kernel = state[FIRST_CONV].shape[2]
    norm = f"{spectral}spade{'batch' if batch else 'instance'}{kernel}x{kernel}"
    return NVlabsOptions(labels, crop, width / height, wanted.upsampling, norm)


def import_discriminator(path: Path, channels: int) -> tuple[DiscriminatorSection, dict[str, Tensor]]:
    """Read our discriminator's shape and tensors from ``NAME_net_D.pth``, trained on ``channels`` semantic channels.

    Raises UserError, which lists every key that is missing, left over or of the wrong shape.
    """
    state = read_checkpoint(path)
    scales = len({k.split(".")[0] for k in state if k.startswith("discriminator_")})
    first = state.get("discriminator_0.model0.0.weight")
    if not scales or first is None or first.ndim != 4:
        raise UserError(f"{path}: not a SPADE discriminator (discriminator_0.model0.0.weight: missing)")
    shape = DiscriminatorSection(ndf=first.shape[0], num_scales=scales)
    expected = _shapes(shape, channels)
    names = {theirs: ours for scale in range(scales) for theirs, ours in _names(scale).items()}
    problems = [f"{k}: missing" for k in names if k not in state]
    problems += [f"{k}: left over" for k in state if k not in names and not k.endswith("num_batches_tracked")]
    problems += [
        f"{k}: shape {list(state[k].shape)}, expected {list(expected[ours])}"
        for k, ours in names.items()
        if k in state and tuple(state[k].shape) != expected[ours]
    ]
    if problems:
        raise UserError(f"{path}: the discriminator does not fit its generator", problems=problems)
    return shape, {ours: state[theirs].float() for theirs, ours in names.items()}


def _names(scale: int) -> Mapping[str, str]:
    """Map their keys of one scale to ours. Both count scales from the full resolution down."""
    theirs, ours = f"discriminator_{scale}", f"scales.{scale}.layers"
    names = {f"{theirs}.model{i}.0.{leaf}": f"{ours}.{i}.{leaf}" for i in (0, 4) for leaf in ("weight", "bias")}
    for i in (1, 2, 3):
        names[f"{theirs}.model{i}.0.0.weight_orig"] = f"{ours}.{i}.weight"
        for leaf in ("weight_u", "weight_v"):
            names[f"{theirs}.model{i}.0.0.{leaf}"] = f"{ours}.{i}.{leaf}"
    return names


def _shapes(shape: DiscriminatorSection, channels: int) -> dict[str, tuple[int, ...]]:
    import torch

    from ..model.discriminator import Discriminator

    with torch.device("meta"):
        network = Discriminator(channels, shape.ndf, shape.num_scales)
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}
