"""Where networks run, and in what arithmetic: the one place that reads device names and sets torch's switches."""

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
    """A device as people name it; ``number`` is None if any will do."""

    kind: str
    number: int | None

    @classmethod
    def parse(cls, name: str) -> DeviceName:
        """ "auto", "cpu", "cuda" or "cuda:N". Raises UserError on anything else. Loads no torch."""
        kind, colon, index = name.partition(":")
        if kind not in ("auto", "cpu", "cuda") or (colon and not (kind == "cuda" and index.isdecimal())):
            raise UserError(f"device {name!r}: {EXPECTED}")
        return cls(kind, int(index) if index else None)


def pick_device(name: str) -> torch.device:
    """The torch device of that name; "auto" is CUDA if there is any.

    Raises UserError on another name, BackendUnavailable where there is no such device.
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
    """The device of this process: with several processes on a machine, each takes a GPU of its own.

    Raises UserError or BackendUnavailable where there is none for it.
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
    """Make ``device`` the current one, so that streams, graphs and pinned memory belong to it and to no other GPU."""
    import torch

    if device.type != "cuda":
        return device
    if device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    torch.cuda.set_device(device)
    return device


def onnxruntime_providers(onnxruntime: Any, device: str) -> tuple[str, list[Any]]:
    """The device's name, and ONNX Runtime's execution providers for it; float32 is IEEE there too.

    Raises UserError on another name, BackendUnavailable if this ONNX Runtime has no CUDA.
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
    """What a card says that a network was computed on."""
    import torch

    from ..core.parallel import num_cores

    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{num_cores()} CPU cores"


@contextmanager
def fp32_math(tf32: bool = False) -> Iterator[None]:
    """Float32 products as IEEE 754 has them, or with factors rounded to TF32's 10 bits on request.

    torch's own default rounds the factors of CUDA convolutions, so that "fp32" there is off by 1e-3.
    """
    import torch

    # torch's older switches: once the newer ones are set for convolutions alone, reading these raises
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
    """:func:`fp32_math`, and the same algorithms in every call: for measurements that have to be repeatable."""
    import torch

    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    try:
        cudnn.benchmark, cudnn.deterministic = False, True
        with fp32_math():
            yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before
