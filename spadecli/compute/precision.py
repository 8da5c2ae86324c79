"""``train.precision = "auto"``: the faster of fp32 and bf16 on the machine at hand."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional as F

Taken = Literal["fp32", "bf16"]

BATCH, CHANNELS, SIDE = 4, 64, 32  # of the feature map of the timed convolution
REPEATS = 3


@dataclass(frozen=True)
class PrecisionChoice:
    """The precision taken for "auto", and the reason in a few words."""

    precision: Taken
    reason: str

    @property
    def line(self) -> str:
        """The choice on one line."""
        return f"precision: {self.precision} ({self.reason})"


def choose_precision(device: torch.device) -> PrecisionChoice:
    """Choose between fp32 and bf16 for training on ``device``.

    On CUDA, bf16 is taken wherever the GPU computes in it. CPUs have torch emulate what they lack, which can be many
    times slower than fp32, so both are timed there, within a second.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return PrecisionChoice("bf16", f"{name} has it") if native else PrecisionChoice("fp32", f"{name} has no bf16")
    fp32, bf16 = (seconds_of_convolution(dtype) for dtype in (torch.float32, torch.bfloat16))
    if bf16 < fp32:
        return PrecisionChoice("bf16", f"{fp32 / bf16:.1f} times faster than fp32 on this CPU")
    return PrecisionChoice("fp32", f"bf16 is {bf16 / fp32:.1f} times slower on this CPU")


def seconds_of_convolution(dtype: torch.dtype) -> float:
    """Time the forward and backward pass of a 3x3 convolution on the CPU; the shortest of a few, in seconds.

    It is computed as in training: under autocast, from float32 weights, with channels last.
    """
    x = torch.ones(BATCH, CHANNELS, SIDE, SIDE).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.ones(CHANNELS, CHANNELS, 3, 3).contiguous(memory_format=torch.channels_last).requires_grad_()
    times = []
    for _ in range(1 + REPEATS):
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = F.conv2d(x, weight, padding=1)
        y.float().sum().backward()  # type: ignore[no-untyped-call]
        times.append(time.perf_counter() - started)
    return min(times[1:])  # the first one builds the kernels
