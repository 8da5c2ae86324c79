"""Python interface of kernels.cpp, if it was compiled at installation; otherwise spade computes with torch alone.

Why C++: it renders much faster than the same formulation in torch operations (tests/bench/bench_render.py). Why a plain
C interface: without headers of Python or torch it compiles in seconds, one build serves every version of both, and an
installation without a compiler simply lacks it. The alternatives, a compiler at run time (torch.compile) or a
dependency that pins NumPy (numba), would be required of every user.

The same source is built for several instruction sets (see setup.py), and the best build for the machine is loaded. It
runs in torch's own OpenMP threads, ``torch.get_num_threads()`` of them.
"""

from __future__ import annotations

import ctypes
import os
import threading
from dataclasses import dataclass
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.errors import UserError

BUILDS = {"AVX512": ("v4", "v3", "base"), "AVX2": ("v3", "base")}  # by the CPU capability in torch, best first
SCRATCH = 1 << 20  # floats of products that are computed before they are summed, so that they stay in the cache
MOST_SCRATCH = 1 << 23  # the same for a single panel

Ints = NDArray[np.int32]


def available() -> bool:
    """Whether kernels are available and enabled: SPADE_NATIVE=0 disables them, SPADE_NATIVE=v3 or base picks a build.

    Raises UserError for another value, or a build that this machine cannot run.
    """
    return _chosen() != "0" and _library() is not None


def _chosen() -> str:
    """Return SPADE_NATIVE: "0", the name of a build, or "" for the best one."""
    chosen = os.environ.get("SPADE_NATIVE", "")
    if chosen in ("", "0", *builds()):
        return chosen
    known = sorted({name for names in BUILDS.values() for name in names})
    why = "this machine's processor lacks its instructions" if chosen in known else "no such build"
    raise UserError(
        f"environment variable SPADE_NATIVE={chosen}: {why}",
        hint=f"0 disables the kernels; {', '.join(builds())} run here; if unset, the best of them is used",
    )


def builds() -> tuple[str, ...]:
    """Return the builds that this machine can run, best first."""
    return BUILDS.get(torch.backends.cpu.get_cpu_capability(), ("base",))


def build() -> str:
    """Return the build in use: "v4" (AVX-512), "v3" (AVX2), "base", or "none"."""
    if not available():
        return "none"
    return Path(_kernels()._name).name.partition(".")[0].removeprefix("_kernels_")


@cache
def _library() -> ctypes.CDLL | None:
    folder = Path(__file__).parent
    chosen = _chosen()
    for name in (chosen,) if chosen not in ("", "0") else builds():
        for suffix in EXTENSION_SUFFIXES:
            path = folder / f"_kernels_{name}{suffix}"
            if path.is_file():
                try:
                    library = ctypes.CDLL(str(path))
                except OSError:  # built for another machine, or this torch has no GNU OpenMP
                    continue
                for size in ("conv", "shortcut", "image"):
                    library[f"spade_{size}_scratch"].restype = ctypes.c_int64
                return library
    return None


def _kernels() -> ctypes.CDLL:
    library = _library()
    assert library is not None
    return library


def find_windows(codes: Ints, kernel: int) -> tuple[Ints, Ints, Ints]:
    """Find the distinct windows of codes int32 [M,h,w]: patches, windows, window_of_pixel (see windows/find.py)."""
    count, taps = codes.size, kernel * kernel
    patches, windows = np.empty((count, taps), np.int32), np.empty((count, taps), np.int32)
    window_of_pixel, counts = np.empty(codes.shape, np.int32), np.empty(2, np.int64)
    arrays = (a.ctypes.data_as(ctypes.c_void_p) for a in (patches, windows, window_of_pixel, counts))
    if not _kernels().spade_windows(codes.ctypes.data_as(ctypes.c_void_p), *_sizes(*codes.shape), kernel, *arrays):
        raise MemoryError("no memory to number the windows of a map")
    return patches[: counts[0]].copy(), windows[: counts[1]].copy(), window_of_pixel


def pack(weight: Tensor) -> Tensor:
    """Rearrange a matrix [K,N] into the panels that the kernels read: [ceil(N/P), K, P]."""
    weight, panel = weight.detach().float().contiguous(), _kernels().spade_panel()
    K, N = weight.shape
    packed = _memory_for(-(-N // panel), K, panel)
    _kernels().spade_pack(_at(weight), *_sizes(K, N), _at(packed), torch.get_num_threads())
    return packed


def hidden(codes: Tensor, planes: Tensor, bias: Tensor, has_edges: bool) -> Tensor:
    """Compute the hidden activation of each patch of codes [n,k²]: [n + 1, hidden]; row 0 is zeros, for the outside."""
    n, taps = codes.shape
    out = torch.empty(n + 1, len(bias))
    _kernels().spade_hidden(
        _at(codes), *_sizes(n), taps, _at(planes), *_sizes(planes.shape[1]), int(has_edges), _at(bias),
        *_sizes(len(bias)), _at(out), torch.get_num_threads(),
    )  # fmt: skip
    return out


def rows(hidden: Tensor, windows: Tensor, packed: Tensor, bias: Tensor, by_taps: bool) -> Tensor:
    """Sum hidden[windows] times each tap's part of a packed matrix [k²·K,N] over the taps, plus bias: [rows, N].

    hidden [n,K], windows int32 [rows,k²]. ``by_taps``: multiply all of hidden by each tap first, then sum per window.
    """
    (n, K), (count, taps), N, threads = hidden.shape, windows.shape, len(bias), torch.get_num_threads()
    out, scratch, at_once = torch.empty(count, N), None, 0
    panel_floats = taps * n * packed.shape[2]
    if by_taps and panel_floats <= MOST_SCRATCH:
        at_once = min(len(packed), max(threads, SCRATCH // panel_floats))
        scratch = _scratch(at_once * panel_floats)
    _kernels().spade_rows(
        _at(hidden), *_sizes(n), _at(windows), *_sizes(count), taps, *_sizes(K), _at(packed), _at(bias), *_sizes(N),
        _at(out), _at(scratch) if scratch is not None else None, *_sizes(at_once), threads,
    )  # fmt: skip
    return out


def shortcut(x: Tensor, scale_shift: Tensor, window_of_pixel: Tensor, up: int, packed: Tensor, channels: int) -> Tensor:
    """Compute a 1x1 convolution of up(x)·scale + shift: x [N,C,h,w] channels-last -> [N,channels,h·up,w·up]."""
    N, C, h, w = x.shape
    out, threads = _feature_map(N, channels, h * up, w * up), torch.get_num_threads()
    scratch = _scratch(threads * _kernels().spade_shortcut_scratch(*_sizes(C, channels)))
    _kernels().spade_shortcut(
        _at(x), *_sizes(N, h, w, C), up, _at(scale_shift), _at(window_of_pixel),
        *_sizes(N // len(window_of_pixel)), _at(packed), *_sizes(channels), _at(out), _at(scratch), threads,
    )  # fmt: skip
    return out


@dataclass(frozen=True)
class Modulation:
    """up(x)·scale + shift and a leaky ReLU: scale_shift [w,2·C], window_of_pixel int32 [M,H,W]; ``up`` 1 or 2."""

    scale_shift: Tensor
    window_of_pixel: Tensor
    up: int
    leak: float


class _Conv(ctypes.Structure):
    """Mirror of struct Conv in kernels.cpp."""

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
        *((name, ctypes.c_int64) for name in ("tap_stride", "channel_stride", "O")),
        ("residual", ctypes.c_void_p),
        ("residual_up", ctypes.c_int),
        ("out", ctypes.c_void_p),
    )


def convolve(
    x: Tensor,
    packed: Tensor,
    bias: Tensor,
    modulation: Modulation | None = None,
    residual: Tensor | None = None,
    reuse: bool = False,
    by_taps: bool = False,
) -> Tensor:
    """Compute a 3x3 convolution of x, or of leaky(up(x)·scale + shift) given a modulation, plus bias and residual.

    x [N,C,h,w] channels-last -> [N,O,H,W]; packed [C·9,O], or ``by_taps`` [9·C,O]. The residual is upsampled to fit;
    ``reuse``: write the result to its memory.
    """
    (N, C, h, w), outputs = x.shape, len(bias)
    up = modulation.up if modulation else 1
    out = residual if reuse and residual is not None else _feature_map(N, outputs, h * up, w * up)
    residual_up = 1 if residual is None else w * up // residual.shape[3]
    conv = _Conv(x.data_ptr(), N, h, w, C, up)
    if modulation:
        conv.rows, conv.row = modulation.scale_shift.data_ptr(), modulation.window_of_pixel.data_ptr()
        conv.samples, conv.leak = N // len(modulation.window_of_pixel), modulation.leak
    conv.packed, conv.bias, conv.O = packed.data_ptr(), bias.data_ptr(), outputs
    conv.tap_stride, conv.channel_stride = (C, 1) if by_taps else (1, 9)
    conv.residual, conv.residual_up = residual.data_ptr() if residual is not None else None, residual_up
    conv.out = out.data_ptr()
    threads = torch.get_num_threads()
    scratch = _scratch(_kernels().spade_conv_scratch(ctypes.byref(conv), threads))
    _kernels().spade_conv(ctypes.byref(conv), _at(scratch), threads)
    return out


def linear(x: Tensor, packed: Tensor, bias: Tensor) -> Tensor:
    """Multiply x [N,K] by a packed matrix [K,O] and add bias: [N,O]."""
    return rows(x, torch.arange(len(x), dtype=torch.int32)[:, None], packed, bias, False)


def image(x: Tensor, leak: float, packed: Tensor, bias: Tensor) -> Tensor:
    """Compute a 3x3 convolution of leaky(x) to the image: x [N,C,h,w] channels-last -> [N,O,h,w] contiguous."""
    N, C, h, w = x.shape
    out, threads = torch.empty(N, len(bias), h, w), torch.get_num_threads()
    scratch = _scratch(threads * _kernels().spade_image_scratch(*_sizes(w, C, len(bias))))
    _kernels().spade_image(
        _at(x), *_sizes(N, h, w, C), ctypes.c_float(leak), _at(packed), _at(bias), *_sizes(len(bias)), _at(out),
        _at(scratch), threads,
    )  # fmt: skip
    return out


def _feature_map(N: int, C: int, h: int, w: int) -> Tensor:
    return _memory_for(N, h, w, C).permute(0, 3, 1, 2)


def _memory_for(*shape: int) -> Tensor:
    """Allocate with NumPy, which requests large pages from the system."""
    return torch.from_numpy(np.empty(shape, np.float32))


class _Memory(threading.local):
    scratch = torch.empty(0)


_memory = _Memory()


def _scratch(floats: int) -> Tensor:
    """Return this thread's working memory, which is kept: allocating it costs as much as the work done in it."""
    if _memory.scratch.numel() < floats:
        _memory.scratch = _memory_for(floats)
    return _memory.scratch


def _at(tensor: Tensor) -> Any:
    return ctypes.c_void_p(tensor.data_ptr())


def _sizes(*values: int) -> tuple[Any, ...]:
    return tuple(ctypes.c_int64(v) for v in values)
