"""The benchmark of backends starts, and names machine and date; its figures are not tested."""

import subprocess
import sys
from datetime import date

import pytest
import torch
from conftest import ROOT


@pytest.mark.skipif(torch.cuda.is_available(), reason="the row is measured there")
def test_rows_that_need_a_gpu_say_not_measured():
    words = ["--batch", "1", "8", "--samples", "1", "--markdown", "--only", "TensorRT fp16"]
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "bench" / "bench_backends.py", *words],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"{date.today()}, ")
    assert "no GPU" in done.stdout
    assert "| images/s | 1 at 1 a mask | 8 at 1 a mask |" in done.stdout
    assert "| TensorRT fp16 | not measured | not measured |" in done.stdout
