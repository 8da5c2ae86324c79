"""Devices and precision: the only file that parses device names and sets torch's precision switches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from ..core.errors import BackendUnavailable, UserError
from ..core.ranks import Ranks

if TYPE_CHECKING:
    import torch

EXPECTED = "expected auto, cpu, cuda or cuda:N"


class DeviceName(NamedTuple):
    """A device name in its parts; ``number`` is None if any device of the kind will do."""

    kind: str
    number: int | None

    @classmethod
    def parse(cls, name: str) -> DeviceName:
        """Parse "auto", "cpu", "cuda" or "cuda:N" without importing torch. Raises UserError for anything else."""
        kind, colon, index = name.partition(":")
        if kind not in ("auto", "cpu", "cuda") or (colon and not (kind == "cuda" and index.isdecimal())):
            raise UserError(f"device {name!r}: {EXPECTED}")
        return cls(kind, int(index) if index else None)


def pick_device(name: str) -> torch.device:
    """Return the torch device of that name; "auto" is CUDA if available.

    Raises UserError if the name is invalid, BackendUnavailable if there is no such device.
    """
    import torch

    kind, number = DeviceName.parse(name)
    if kind == "cpu" or (kind == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (number or 0) >= count:
        raise BackendUnavailable(
            f"device {name!r}: this torch ({torch.__version__}) sees {count} CUDA devices",
            hint="spade doctor says what this machine can run; --device cpu always works",
        )
    return torch.device("cuda") if number is None else torch.device("cuda", number)


def device_of_rank(name: str, ranks: Ranks) -> torch.device:
    """Return the device of this process: of several processes on a machine, each gets its own GPU.

    Raises UserError or BackendUnavailable if there is none for it.
    """
    import torch

    picked = pick_device(name)
    if ranks.size == 1 or picked.type != "cuda":
        return picked
    if picked.index is not None and ranks.local_size > 1:
        hint = "--device cuda gives each process a GPU of its own; CUDA_VISIBLE_DEVICES says which"
        raise UserError(f"device {name!r}: {ranks.local_size} processes cannot share a GPU", hint=hint)
    gpus = torch.cuda.device_count()
    if ranks.local_size > gpus:
        raise BackendUnavailable(
            f"{ranks.local_size} processes on this machine, which has {gpus} GPU{'s' * (gpus != 1)}",
            hint=f"torchrun --nproc-per-node {gpus}, or --device cpu",
        )
    return picked if picked.index is not None else torch.device("cuda", ranks.local_rank)


def use_device(device: torch.device) -> torch.device:
    """Make ``device`` the current one, so that streams, graphs and pinned memory belong to it; return it with index."""
    import torch

    if device.type != "cuda":
        return device
    if device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    torch.cuda.set_device(device)
    return device


def onnxruntime_providers(onnxruntime: Any, device: str) -> tuple[str, list[Any]]:
    """Return the device's name and ONNX Runtime's execution providers for it, with TF32 off.

    Raises UserError if the name is invalid, BackendUnavailable if this ONNX Runtime has no CUDA.
    """
    kind, number = DeviceName.parse(device)
    there = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if kind == "cuda" and not there:
        raise BackendUnavailable(
            f"device {device!r}: this onnxruntime ({onnxruntime.__version__}) has no CUDA",
            hint="pip install onnxruntime-gpu in place of onnxruntime; --device cpu always works",
        )
    if kind == "cpu" or not there:
        return "cpu", ["CPUExecutionProvider"]
    options = {"device_id": str(number or 0), "use_tf32": "0"}
    return f"cuda:{number or 0}", [("CUDAExecutionProvider", options), "CPUExecutionProvider"]


def hardware_name(device: torch.device) -> str:
    """Return the name of the hardware, as recorded in a card."""
    import torch

    from ..core.parallel import num_cores

    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{num_cores()} CPU cores"


@contextmanager
def fp32_math(tf32: bool = False) -> Iterator[None]:
    """Compute float32 products in IEEE precision or, with ``tf32``, with factors rounded to 10 bits, while open.

    By default torch uses TF32 in CUDA convolutions, which makes "fp32" results there off by 1e-3.
    """
    import torch

    # the older switches of torch; reading them raises once the newer ones are set for convolutions alone
    switches: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = tf32
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


@contextmanager
def exact_math() -> Iterator[None]:
    """Like :func:`fp32_math`, with the same algorithms in every call: for repeatable measurements."""
    import torch

    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    try:
        cudnn.benchmark, cudnn.deterministic = False, True
        with fp32_math():
            yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before
