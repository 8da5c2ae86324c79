"""What every test may use."""

import os
from pathlib import Path

import pytest

# networks here are tiny: several threads would only wait for each other, subprocesses included
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked gpu are skipped, with the reason, where there is no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason=f"needs a CUDA device; torch {torch.__version__} sees none")
        for item in marked:
            item.add_marker(skip)


def shared(*parts: str) -> Path:
    """Path below the data folder beside the repository (or SPADE_SHARED); the test is skipped without it."""
    path = Path(os.environ.get("SPADE_SHARED", ROOT.parent / "shared"), *parts)
    if not path.exists():
        pytest.skip(f"needs {path}")
    return path
