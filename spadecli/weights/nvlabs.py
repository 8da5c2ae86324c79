"""Import of checkpoints in NVlabs/SPADE's file format (``latest_net_G.pth``, ``latest_net_E.pth``).

Nothing in the files is executed: they are read with ``weights_only=True``. Spectral norm is folded with the stored u
and v, as in the published code's evaluation; a recomputed sigma would give different images.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import ValidationError
from torch import Tensor

from ..core.architecture import UPSAMPLES, Architecture, Upsampling
from ..core.errors import UserError
from ..core.labelspace import LabelSpace
from ..core.schema import describe_errors
from ..model.encoder import ImageEncoder
from ..model.generator import Generator
from .file import load_folded

if TYPE_CHECKING:
    from ..core.architecture import Norm

BLOCKS = ("head_0", "G_middle_0", "G_middle_1", "up_0", "up_1", "up_2", "up_3", "up_4")
NORM_OPTION = re.compile(r"^(spectral)?spade(syncbatch|batch|instance)([135])x\3$")


@dataclass(frozen=True)
class NVlabsOptions:
    """Options that the files do not contain. crop_size: width of the training images. aspect: width / height."""

    labels: LabelSpace
    crop_size: int = 256
    aspect: float = 1.0
    upsampling: Upsampling = "normal"
    norm: str = "spectralspadesyncbatch3x3"


def import_generator(
    path: Path, encoder_path: Path | None, options: NVlabsOptions
) -> tuple[Architecture, Generator, ImageEncoder | None]:
    """Read the files into float32 modules in evaluation mode.

    Raises UserError, which lists every key that is missing, left over or of the wrong shape.
    """
    state = read_checkpoint(path)
    arch = _architecture(path, state, options, has_encoder=encoder_path is not None)
    with torch.device("meta"):
        generator = Generator(arch, options.labels.semantic_channels, spectral=False)
    generator = generator.to_empty(device="cpu")
    problems = _load(generator, _generator_names(arch), state, arch.spectral_norm, path)
    encoder = None
    if encoder_path is not None:
        encoder = ImageEncoder(arch, spectral=False)
        problems += _load(encoder, _encoder_names(), read_checkpoint(encoder_path), arch.spectral_norm, encoder_path)
    if problems:
        raise UserError(
            f"{path}: the checkpoint does not fit the options",
            problems=problems,
            hint="check --num-classes, --dont-care, --no-instance, --upsampling and --norm, or --preset",
        )
    return arch, generator.eval(), encoder.eval() if encoder is not None else None


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a file. Raises UserError, which names every entry that is not a plain, finite tensor."""
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # a damaged or hostile file may fail anywhere in the reader
        holds = "it holds more than tensors" if isinstance(e, pickle.UnpicklingError) else "it cannot be read"
        raise UserError(
            f"{path}: not a plain PyTorch state dict: {holds}",
            hint="files that would execute code are refused; download damaged ones again",
        ) from e
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path}: not a state dict (a mapping of names to tensors)")
    problems = []
    for name, value in state.items():
        if value.layout != torch.strided or value.is_quantized or value.is_complex():
            problems.append(f"{name}: not a plain tensor of numbers")
        elif not torch.isfinite(value).all():
            problems.append(f"{name}: holds numbers that are not finite")
        elif name.endswith(("weight_u", "weight_v")) and not value.any():
            problems.append(f"{name}: all zero, which makes the spectral norm zero")
    if problems:
        raise UserError(f"{path}: damaged", problems=problems)
    return {str(k): v for k, v in state.items()}


def _architecture(path: Path, state: Mapping[str, Tensor], options: NVlabsOptions, has_encoder: bool) -> Architecture:
    """Derive the architecture from the keys as far as possible, and from the options otherwise."""
    match = NORM_OPTION.match(options.norm)
    if match is None:
        raise UserError(
            f"--norm {options.norm!r}: expected [spectral]spade(syncbatch|batch|instance)KxK with K 1, 3 or 5",
            hint="for example spectralspadesyncbatch3x3",
        )
    needed = ("fc.weight", "head_0.norm_0.mlp_shared.0.weight")
    problems = [f"{k}: missing" for k in needed if k not in state]
    problems += [f"{k}: has no rows and columns" for k in needed if k in state and state[k].ndim < 2]
    if problems:
        raise UserError(f"{path}: not a SPADE generator", problems=problems)
    fc = state["fc.weight"]
    linear = fc.ndim == 2
    if has_encoder and not linear:
        raise UserError(
            f"{path}: a generator with latent = map, which takes no encoder (fc.weight is a convolution)",
            hint="omit --encoder",
        )
    upsampling: Upsampling = "most" if any(k.startswith("up_4.") for k in state) else options.upsampling
    down = 1 << UPSAMPLES[upsampling]
    grid_width = options.crop_size // down
    grid_height = round(grid_width / options.aspect)
    if grid_width < 1 or grid_height < 1:
        raise UserError(f"--crop-size {options.crop_size} is below the stride {down} of upsampling {upsampling!r}")
    if linear and fc.shape[0] % (grid_width * grid_height * 16):
        raise UserError(
            f"{path}: fc.weight has {fc.shape[0]} rows, no multiple of 16 · {grid_height} · {grid_width}, the start "
            f"grid of --crop-size {options.crop_size} --aspect {options.aspect:g} --upsampling {upsampling}"
        )
    widest = fc.shape[0] // (grid_width * grid_height) if linear else fc.shape[0]
    norm: Norm = "instance" if match[2] == "instance" else "batch"
    fields = {
        "size": (grid_height * down, grid_width * down),
        "ngf": widest // 16,
        "z_dim": fc.shape[1] if linear else 256,
        "hidden": state["head_0.norm_0.mlp_shared.0.weight"].shape[0],
        "kernel": int(match[3]),
        "norm": norm,
        "upsampling": upsampling,
        "spectral_norm": match[1] is not None,
        "latent": ("encoder" if has_encoder else "noise") if linear else "map",
    }
    try:
        return Architecture.model_validate(fields)
    except ValidationError as e:
        raise UserError(f"{path}: not a generator of a usable size", problems=describe_errors(e, Architecture)) from e


def _generator_names(arch: Architecture) -> dict[str, tuple[str, ...]]:
    """Map our tensors to theirs; two of theirs are stacked into one of ours. Prefix "*" means spectrally normalized."""
    names: dict[str, tuple[str, ...]] = {}
    for leaf in ("weight", "bias"):
        names[f"fc.{leaf}"] = (f"fc.{leaf}",)
        names[f"conv_img.{leaf}"] = (f"conv_img.{leaf}",)
    widths = 8 if arch.upsampling == "most" else 7
    for i, block in enumerate(BLOCKS[:widths]):
        learned = i >= 3  # the first three keep their width and have a plain shortcut
        for part in ("0", "1", *(("s",) if learned else ())):
            names[f"blocks.{i}.conv_{part}.weight"] = (f"*{block}.conv_{part}.weight",)
            if part != "s":
                names[f"blocks.{i}.conv_{part}.bias"] = (f"{block}.conv_{part}.bias",)
            ours, theirs = f"blocks.{i}.norm_{part}", f"{block}.norm_{part}"
            for leaf in ("weight", "bias"):
                names[f"{ours}.shared.{leaf}"] = (f"{theirs}.mlp_shared.0.{leaf}",)
                names[f"{ours}.gamma_beta.{leaf}"] = (f"{theirs}.mlp_gamma.{leaf}", f"{theirs}.mlp_beta.{leaf}")
            if arch.norm == "batch":
                for leaf in ("running_mean", "running_var"):
                    names[f"{ours}.norm.{leaf}"] = (f"{theirs}.param_free_norm.{leaf}",)
    return names


def _encoder_names() -> dict[str, tuple[str, ...]]:
    names: dict[str, tuple[str, ...]] = {f"layers.{i}.weight": (f"*layer{i + 1}.0.weight",) for i in range(6)}
    for ours, theirs in (("fc_mu", "fc_mu"), ("fc_logvar", "fc_var")):
        for leaf in ("weight", "bias"):
            names[f"{ours}.{leaf}"] = (f"{theirs}.{leaf}",)
    return names


def _load(
    module: torch.nn.Module,
    names: Mapping[str, tuple[str, ...]],
    state: Mapping[str, Tensor],
    spectral: bool,
    path: Path,
) -> list[str]:
    """Fill the module from their tensors; return every key that is missing, left over or of the wrong shape."""
    left = {k for k in state if not k.endswith("num_batches_tracked")}
    expected = module.state_dict()
    problems, found = [], {}
    for ours, theirs in names.items():
        shape = list(expected[ours].shape)
        shape[0] //= len(theirs)
        parts = []
        for name in theirs:
            keys = _shapes(name, shape, spectral)
            left -= keys.keys()
            wrong = [f"{k}: missing" for k in keys if k not in state]
            wrong += [
                f"{k}: shape {list(state[k].shape)}, expected {s}"
                for k, s in keys.items()
                if k in state and list(state[k].shape) != s
            ]
            problems += wrong
            if not wrong:
                parts.append(_effective(*(state[k] for k in keys)))
        if len(parts) == len(theirs):
            found[ours] = torch.cat(parts)
    problems = [f"{path.name}: {p}" for p in (*problems, *(f"{k}: left over" for k in sorted(left)))]
    return problems or load_folded(module, found)


def _shapes(name: str, shape: list[int], spectral: bool) -> dict[str, list[int]]:
    """Return their keys for one tensor, with the expected shapes; a spectrally normalized one has three."""
    key = name.removeprefix("*")
    if key == name or not spectral:
        return {key: shape}
    columns = math.prod(shape[1:])
    return {f"{key}_orig": shape, f"{key}_u": [shape[0]], f"{key}_v": [columns]}


def _effective(weight: Tensor, u: Tensor | None = None, v: Tensor | None = None) -> Tensor:
    """Return the weight, divided by u^T W v (in float64) if u and v are given."""
    if u is None or v is None:
        return weight.float()
    w = weight.double()
    return (w / (u.double() @ (w.flatten(1) @ v.double()))).float()
