"""What this machine can run, and how to get the rest."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ...backends.artifact import INSTALL, Runtime
from ...backends.build import load_runtime
from ...core.errors import BackendUnavailable
from ...core.recipe_files import shipped_dir
from ...core.version import VERSION

OPTIONAL = {"tensorboard": ("loss curves in TensorBoard while training", "pip install tensorboard")}


@dataclass(frozen=True)
class DoctorOptions:
    """``folder``: whose disk is measured."""

    folder: Path = Path()


@dataclass(frozen=True)
class Finding:
    """One line of the report: the subject, what was found, and how to get it if it is missing."""

    subject: str
    found: str
    hint: str = ""


def doctor(options: DoctorOptions = DoctorOptions()) -> tuple[Finding, ...]:
    """Look at this machine: interpreter, torch, devices, optional packages, shipped weights, disk."""
    return (
        Finding("spade", f"{VERSION} in {Path(__file__).parents[2]}"),
        Finding("python", f"{platform.python_version()} ({sys.executable})"),
        Finding("system", f"{platform.system()} {platform.machine()}"),
        *_torch_findings(),
        *_runtimes(),
        *(_package(name, use, install) for name, (use, install) in OPTIONAL.items()),
        _shipped_weights(),
        _disk(options.folder),
    )


def _torch_findings() -> list[Finding]:
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU-only build"
    findings = [
        Finding("torch", f"{torch.__version__}, {build}"),
        Finding(
            "cpu",
            f"{torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores, "
            f"torch uses {torch.get_num_threads()} threads",
        ),
    ]
    findings.append(_kernels())
    for i in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(i)
        found = f"{p.name}, {p.total_memory / 2**30:.0f} GiB, compute capability {p.major}.{p.minor}"
        findings.append(Finding(f"cuda:{i}", found))
    if not torch.cuda.device_count():
        hint = (
            "an NVIDIA driver" if torch.version.cuda else "a CUDA build of torch, from pytorch.org's install selector"
        )
        findings.append(Finding("cuda", "no device", f"needs {hint}"))
    return findings


def _kernels() -> Finding:
    from ...kernels import native

    names = {"v4": "AVX-512", "v3": "AVX2", "base": "basic instructions"}
    if (build := native.build()) in names:
        return Finding("kernels", f"compiled, for {names[build]}")
    return Finding(
        "kernels",
        "none (rendering on the CPU is two to three times slower without)",
        "install a C++ compiler (g++ or clang), then install spade again",
    )


def _package(name: str, use: str, install: str) -> Finding:
    if importlib.util.find_spec(name) is None:
        return Finding(name, f"not installed ({use})", install)
    try:
        return Finding(name, version(name))
    except PackageNotFoundError:
        return Finding(name, "installed, of unknown version")


def _runtimes() -> list[Finding]:
    """What runs converted weights, or builds them."""
    return [
        _package("onnx", "spade convert --to onnx", INSTALL["onnx"]),
        _onnxruntime(),
        _engines("tensorrt", "engines for this GPU"),
        _engines("tensorrt-rtx", "engines for any RTX GPU, built anywhere"),
    ]


def _onnxruntime() -> Finding:
    found = _package("onnxruntime", "runs .onnx files", INSTALL["onnxruntime"])
    if found.hint:
        return found
    import onnxruntime

    providers = [p.removesuffix("ExecutionProvider") for p in onnxruntime.get_available_providers()]
    return Finding("onnxruntime", f"{onnxruntime.__version__} ({', '.join(providers)})")


def _engines(kind: Runtime, use: str) -> Finding:
    try:
        return Finding(kind, str(load_runtime(kind).__version__))
    except BackendUnavailable as e:
        return Finding(kind, f"{e.message.removeprefix(f'{kind} ').replace('is not', 'not')} ({use})", e.hint)


def _shipped_weights() -> Finding:
    files = sorted(shipped_dir("weights").glob("*.safetensors"))
    if not files:
        return Finding("weights", f"none in {shipped_dir('weights')}", "spade train facades, then render with -w")
    return Finding("weights", ", ".join(f"{p} ({p.stat().st_size / 1e6:.1f} MB)" for p in files))


def _disk(folder: Path) -> Finding:
    return Finding("disk", f"{shutil.disk_usage(folder).free / 1e9:.0f} GB free in {folder.resolve()}")
