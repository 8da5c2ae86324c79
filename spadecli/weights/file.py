"""Weights files: safetensors with generator and encoder, spectral norm folded in, and the card in the header."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from ..core.errors import UserError
from ..core.schema import describe_errors
from ..core.version import VERSION
from ..store.atomic import part_file
from .card import Card

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..model.encoder import ImageEncoder
    from ..model.generator import Generator


def read_card(path: Path) -> Card:
    """Read the card of a weights file, from the header alone and without importing torch.

    Raises UserError if the file is missing, damaged or not a weights file of this project.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    try:
        with safe_open(path, framework="np") as f:
            metadata = f.metadata() or {}
    except (SafetensorError, OSError) as e:
        raise UserError(f"{path}: not a readable safetensors file ({e})") from e
    if "card" not in metadata:
        raise UserError(
            f"{path}: a safetensors file without a spade card", hint="create weights with spade train or convert"
        )
    try:
        header = json.loads(metadata["card"])
        if isinstance(header, dict) and header.get("format") == "spade-segmenter":
            raise UserError(
                f"{path}: segmenter weights, which predict label maps and render no images",
                hint="give generator weights, such as those of spade train; a segmenter is for spade score",
            )
        return Card.model_validate(header)
    except ValidationError as e:
        message = f"{path}: its card does not fit this version of spade ({VERSION})"
        raise UserError(message, problems=describe_errors(e, Card)) from e
    except ValueError as e:
        raise UserError(f"{path}: its card is damaged ({e})") from e


def count_parameters(path: Path) -> dict[str, int]:
    """Part of the network ("generator", "encoder", ...) -> number of trained values; running statistics do not count.

    Reads the header only.
    """
    from safetensors import safe_open

    counts: dict[str, int] = {}
    with safe_open(path, framework="np") as f:
        for name in f.keys():  # noqa: SIM118 - not a mapping
            if "running_" not in name:
                part = name.partition(".")[0]
                counts[part] = counts.get(part, 0) + math.prod(f.get_slice(name).get_shape())
    return counts


def save_weights(
    path: Path,
    card: Card,
    generator: Mapping[str, Tensor],
    encoder: Mapping[str, Tensor] | None,
    dtype: Literal["fp32", "fp16"] = "fp32",
) -> None:
    """Write effective weights (see :func:`folded_state_dict`) and card atomically.

    fp16 halves the file; batch-norm statistics stay float32.
    """
    import torch
    from safetensors.torch import save_file

    tensors = {}
    for prefix, state in (("generator", generator), ("encoder", encoder or {})):
        for name, value in state.items():
            keep = dtype == "fp32" or "running_" in name
            tensors[f"{prefix}.{name}"] = value.detach().cpu().to(torch.float32 if keep else torch.float16).contiguous()
    card = card.model_copy(update={"created_by": f"spade {VERSION}"})
    with part_file(path) as part:
        save_file(tensors, part, metadata={"format": "pt", "card": card.model_dump_json()})


def load_weights(path: Path) -> tuple[Card, Generator, ImageEncoder | None]:
    """Read a weights file into float32 modules in evaluation mode.

    Raises UserError, which lists every tensor that is missing, left over or of the wrong shape.
    """
    import torch

    from ..model.encoder import ImageEncoder
    from ..model.generator import Generator

    card = read_card(path)
    tensors = _read_tensors(path)
    arch = card.architecture
    with torch.device("meta"):  # skips random weights that would be overwritten
        generator = Generator(arch, card.labels.semantic_channels, spectral=False)
        encoder = ImageEncoder(arch, spectral=False) if arch.has_encoder else None
    problems = load_folded(generator, _part(tensors, "generator"), "generator.", assign=True)
    if encoder is not None:
        problems += load_folded(encoder, _part(tensors, "encoder"), "encoder.", assign=True)
    if problems:
        raise UserError(f"{path}: the tensors do not fit the card", problems=problems)
    return card, generator.eval(), encoder.eval() if encoder is not None else None


def folded_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's effective weights: spectral norm folded in, with running statistics but without counters."""
    import torch

    from ..model.layers import SpectralConv2d

    was_training = module.training
    module.eval()
    with torch.no_grad():
        state = {
            name: value.detach()
            for name, value in module.state_dict().items()
            if not name.endswith(("num_batches_tracked", "weight_u", "weight_v"))
        }
        for name, child in module.named_modules():
            if isinstance(child, SpectralConv2d):
                state[f"{name}.weight"] = child.effective_weight().detach()
    module.train(was_training)
    return state


def load_folded(module: nn.Module, state: Mapping[str, Tensor], prefix: str = "", assign: bool = False) -> list[str]:
    """Load effective weights in float32; return the problems instead of raising.

    assign: use float32 tensors themselves instead of copying them; the module may then be on the meta device.

    In a spectrally normalized module u and v are recomputed, and v is scaled so that sigma is 1 and the module computes
    with exactly these weights. The first training step replaces that by the true sigma (close to 1 for weights that
    were normalized, slightly less for averages of such weights).
    """
    from torch import int64, zeros
    from torch.nn import BatchNorm2d

    from ..model.layers import SpectralConv2d

    expected = folded_state_dict(module)
    problems = [f"{prefix}{n}: missing" for n in sorted(expected.keys() - state.keys())]
    problems += [f"{prefix}{n}: left over" for n in sorted(state.keys() - expected.keys())]
    problems += [
        f"{prefix}{n}: shape {list(state[n].shape)}, expected {list(expected[n].shape)}"
        for n in sorted(expected.keys() & state.keys())
        if state[n].shape != expected[n].shape
    ]
    if not problems:
        module.load_state_dict({n: v.float() for n, v in state.items()}, strict=False, assign=assign)
        for child in module.modules():
            if assign and isinstance(child, BatchNorm2d) and child.num_batches_tracked is not None:
                child.num_batches_tracked = zeros((), dtype=int64)  # weights files have none
        for child in module.modules():
            if isinstance(child, SpectralConv2d):
                child.power_iteration(30)
                sigma = child.weight_u @ (child.weight.detach().flatten(1) @ child.weight_v)
                child.weight_v.div_(sigma if sigma > 0 else 1.0)
    return problems


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Read each tensor into its own memory; from a memory-mapped file they would be held twice, until all are freed."""
    import torch
    from safetensors import safe_open

    with safe_open(path, framework="pt") as f:  # checks header and length
        names = list(f.keys())
    types = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    tensors = {}
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        for name in sorted(names, key=lambda n: header[n]["data_offsets"][0]):
            begin, end = header[name]["data_offsets"]
            data = torch.empty(end - begin, dtype=torch.uint8)
            file.seek(8 + length + begin)
            file.readinto(data.numpy().data)
            dtype = types.get(header[name]["dtype"])
            if dtype is None:
                raise UserError(f"{path}: {name} is {header[name]['dtype']}; expected one of {', '.join(types)}")
            tensors[name] = data.view(dtype).reshape(header[name]["shape"])
    return tensors


def _part(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {n.removeprefix(f"{prefix}."): v for n, v in tensors.items() if n.startswith(f"{prefix}.")}
