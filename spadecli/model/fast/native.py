"""The kernels of kernels.cpp, where they were compiled at installation; else the package computes with torch alone.

Why a small C++ file with a plain C interface: on two cores (AVX-512) it renders COCO-Stuff settings at 7.0 times the
speed of the plain form, where the same formulation in torch's own operations reaches 3.4 (tests/bench/bench_render.py
coco). It needs no header of Python or torch, so it compiles in seconds, one build serves every version of both, and an
installation without a compiler just goes on without it. A compiler at run time (torch.compile) or one more dependency
that pins NumPy (numba) would be asked of every user. The same source is built for each instruction set (see setup.py)
and the one that fits this machine is loaded. It runs in torch's own
OpenMP threads, as many as ``torch.get_num_threads()``.
"""

from __future__ import annotations

import ctypes
import os
import threading
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

BUILDS = {"AVX512": ("v4", "v3", "base"), "AVX2": ("v3", "base")}  # by what torch finds of the machine, best first
SCRATCH = 1 << 21  # floats that a convolution works in at a time, so that they stay in the cache
TABLE_SCRATCH = 1 << 23  # floats of products of one panel, at most
FEW_WINDOWS = 0.7  # windows per window of windows up to which products per tap are cheaper

Ints = NDArray[np.int32]


def available() -> bool:
    """Whether there are kernels. SPADE_NATIVE=0 does without."""
    return os.environ.get("SPADE_NATIVE", "1") != "0" and _library() is not None


def build() -> str:
    """Which build is in use: "v4" (AVX-512), "v3" (AVX2), "base", or "none"."""
    if not available():
        return "none"
    return Path(_kernels()._name).name.partition(".")[0].removeprefix("_kernels_")


@cache
def _library() -> ctypes.CDLL | None:
    folder = Path(__file__).parent
    for name in BUILDS.get(torch.backends.cpu.get_cpu_capability(), ("base",)):
        for suffix in EXTENSION_SUFFIXES:
            path = folder / f"_kernels_{name}{suffix}"
            if path.is_file():
                try:
                    library = ctypes.CDLL(str(path))
                except OSError:  # built for another machine, or torch here has no GNU OpenMP
                    continue
                library.spade_conv_scratch.restype = ctypes.c_int64
                return library
    return None


def _kernels() -> ctypes.CDLL:
    library = _library()
    assert library is not None
    return library


def find_windows(codes: Ints, kernel: int) -> tuple[Ints, Ints, Ints]:
    """See :class:`.windows.Windows`: codes int32 [M,h,w] -> codes, windows, row."""
    count, taps = codes.size, kernel * kernel
    windows, of_windows = np.empty((count, taps), np.int32), np.empty((count, taps), np.int32)
    row, counts = np.empty(codes.shape, np.int32), np.empty(2, np.int64)
    arrays = (a.ctypes.data_as(ctypes.c_void_p) for a in (windows, of_windows, row, counts))
    _kernels().spade_windows(codes.ctypes.data_as(ctypes.c_void_p), *_sizes(*codes.shape), kernel, *arrays)
    return windows[: counts[0]].copy(), of_windows[: counts[1]].copy(), row


def pack(weight: Tensor) -> Tensor:
    """A matrix [K,N] as the kernels read it: panels [ceil(N/P), K, P]."""
    weight, panel = weight.detach().float().contiguous(), _kernels().spade_panel()
    K, N = weight.shape
    packed = torch.empty(-(-N // panel), K, panel)
    _kernels().spade_pack(_at(weight), *_sizes(K, N), _at(packed), torch.get_num_threads())
    return packed


def pack_filter(weight: Tensor, m: int) -> Tensor:
    """A convolution's weight [O,C,3,3], transformed for output tiles of m x m pixels and packed."""
    weight, panel = weight.detach().float().contiguous(), _kernels().spade_panel()
    outputs, C = weight.shape[:2]
    packed = torch.empty((m + 2) ** 2, -(-outputs // panel), C, panel)
    _kernels().spade_filter_weight(_at(weight), *_sizes(outputs, C), m, _at(packed), torch.get_num_threads())
    return packed


def table(
    codes: Tensor,
    windows: Tensor,
    planes: Tensor,
    bias: Tensor,
    has_edges: bool,
    packed: Tensor,
    bias_rows: Tensor,
) -> Tensor:
    """The rows of a SPADE layer, [rows, 2·C]: see :class:`.tables.ModulationTable`."""
    n, taps = codes.shape
    hidden, threads, N = bias.shape[0], torch.get_num_threads(), bias_rows.shape[0]
    activations = torch.empty(n + 1, hidden)
    _kernels().spade_hidden(
        _at(codes), *_sizes(n), taps, _at(planes), *_sizes(planes.shape[1]), int(has_edges), _at(bias),
        *_sizes(hidden), _at(activations), threads,
    )  # fmt: skip
    rows = torch.empty(len(windows), N)
    panel_floats = taps * (n + 1) * packed.shape[2]
    scratch, at_once = None, 0
    if n < FEW_WINDOWS * len(windows) and panel_floats <= TABLE_SCRATCH:
        at_once = min(len(packed), max(threads, SCRATCH // 2 // panel_floats))
        scratch = _scratch(at_once * panel_floats)
    _kernels().spade_rows(
        _at(activations), *_sizes(n), _at(windows), *_sizes(len(windows)), taps, *_sizes(hidden),
        _at(packed), _at(bias_rows), *_sizes(N), _at(rows), _at(scratch) if scratch is not None else None,
        *_sizes(at_once), threads,
    )  # fmt: skip
    return rows


def shortcut(x: Tensor, rows: Tensor, row: Tensor, up: int, packed: Tensor, channels: int) -> Tensor:
    """1x1 convolution of up(x)·scale + shift: x [N,C,h,w] channels-last -> [N,channels,h·up,w·up]."""
    N, C, h, w = x.shape
    out = _feature_map(N, channels, h * up, w * up)
    _kernels().spade_shortcut(
        _at(x), *_sizes(N, h, w, C), up, _at(rows), _at(row), *_sizes(N // len(row)), _at(packed),
        *_sizes(channels), _at(out), torch.get_num_threads(),
    )  # fmt: skip
    return out


class _Conv(ctypes.Structure):
    """struct Conv of kernels.cpp."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("N", "h", "w", "C")),
        ("up", ctypes.c_int),
        ("rows", ctypes.c_void_p),
        ("row", ctypes.c_void_p),
        ("samples", ctypes.c_int64),
        ("leak", ctypes.c_float),
        ("packed", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("O", ctypes.c_int64),
        ("residual", ctypes.c_void_p),
        ("residual_up", ctypes.c_int),
        ("out", ctypes.c_void_p),
    )


def convolve(
    x: Tensor,
    rows: Tensor,
    row: Tensor,
    up: int,
    leak: float,
    packed: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    reuse: bool = False,
) -> Tensor:
    """3x3 convolution of leaky(up(x)·scale + shift), bias and residual (upsampled to fit) added.

    x [N,C,h,w] channels-last -> [N,O,h·up,w·up]; ``reuse``: into the residual's own memory.
    """
    N, C, h, w = x.shape
    outputs, m, W = len(bias), {16: 2, 36: 4}[packed.shape[0]], w * up
    out = residual if reuse and residual is not None else _feature_map(N, outputs, h * up, W)
    residual_up = 1 if residual is None else W // residual.shape[3]
    room = max(SCRATCH, _kernels().spade_conv_scratch(*_sizes(W, C, outputs), m))
    conv = _Conv(
        x.data_ptr(), N, h, w, C, up, rows.data_ptr(), row.data_ptr(), N // len(row), leak, packed.data_ptr(),
        bias.data_ptr(), outputs, residual.data_ptr() if residual is not None else None, residual_up, out.data_ptr(),
    )  # fmt: skip
    _kernels().spade_conv(ctypes.byref(conv), m, _at(_scratch(room)), *_sizes(room), torch.get_num_threads())
    return out


def linear(x: Tensor, packed: Tensor, bias: Tensor) -> Tensor:
    """x [N,K] times a packed matrix [K,O], plus bias: [N,O]."""
    N, K = x.shape
    rows, out = F.pad(x, (0, 0, 1, 0)), torch.empty(N, len(bias))
    which = torch.arange(1, N + 1, dtype=torch.int32)
    _kernels().spade_rows(
        _at(rows), *_sizes(N), _at(which), *_sizes(N), 1, *_sizes(K), _at(packed), _at(bias), *_sizes(len(bias)),
        _at(out), None, *_sizes(0), torch.get_num_threads(),
    )  # fmt: skip
    return out


def convolve_by_taps(x: Tensor, packed: Tensor, bias: Tensor) -> Tensor:
    """3x3 convolution of x [N,C,h,w] channels-last, weight [9·C,O] packed tap by tap: one product a pixel and tap."""
    N, C, h, w = x.shape
    pixels = F.pad(torch.arange(1, N * h * w + 1, dtype=torch.int32).view(N, h, w), (1, 1, 1, 1))
    taps = torch.stack([pixels[:, y : y + h, x : x + w] for y in range(3) for x in range(3)], 3).contiguous()
    values = F.pad(x.permute(0, 2, 3, 1).reshape(-1, C), (0, 0, 1, 0))
    out = _feature_map(N, len(bias), h, w)
    _kernels().spade_rows(
        _at(values), *_sizes(N * h * w), _at(taps), *_sizes(N * h * w), 9, *_sizes(C), _at(packed), _at(bias),
        *_sizes(len(bias)), _at(out), None, *_sizes(0), torch.get_num_threads(),
    )  # fmt: skip
    return out


def image(x: Tensor, leak: float, packed: Tensor, bias: Tensor) -> Tensor:
    """3x3 convolution of leaky(x) to the image's channels: x [N,C,h,w] channels-last -> [N,O,h,w] contiguous."""
    N, C, h, w = x.shape
    out = torch.empty(N, len(bias), h, w)
    _kernels().spade_image(
        _at(x), *_sizes(N, h, w, C), ctypes.c_float(leak), _at(packed), _at(bias), *_sizes(len(bias)), _at(out),
        torch.get_num_threads(),
    )  # fmt: skip
    return out


def _feature_map(N: int, C: int, h: int, w: int) -> Tensor:
    return torch.empty(N, h, w, C).permute(0, 3, 1, 2)


class _Memory(threading.local):
    scratch = torch.empty(0)


_memory = _Memory()


def _scratch(floats: int) -> Tensor:
    """Working memory of this thread, kept: fresh memory costs as much as the work done in it."""
    if _memory.scratch.numel() < floats:
        _memory.scratch = torch.empty(floats)
    return _memory.scratch


def _at(tensor: Tensor) -> Any:
    return ctypes.c_void_p(tensor.data_ptr())


def _sizes(*values: int) -> tuple[Any, ...]:
    return tuple(ctypes.c_int64(v) for v in values)
