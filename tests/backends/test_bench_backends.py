"""The benchmark of backends starts, and names machine and date; its figures are not tested."""

import importlib.util
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
import torch
from conftest import ROOT


@pytest.mark.skipif(torch.cuda.is_available(), reason="the row is measured there")
def test_rows_that_this_machine_cannot_measure_are_left_out():
    words = ["--batch", "1", "8", "--samples", "1", "--markdown", "--only", "TensorRT fp16"]
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "bench" / "bench_backends.py", *words],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"{date.today()}, ")
    assert "no GPU" in done.stdout
    assert "| images/s | 1 at 1 | 8 at 1 | share of peak |" in done.stdout
    assert "| TensorRT" not in done.stdout


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_backends", ROOT / "tests" / "bench" / "bench_backends.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_backends"] = module
    spec.loader.exec_module(module)
    return module


def test_ratios_name_their_row_and_are_left_out_without_it(bench):
    cell = bench.Cell
    table = {
        "TensorRT fp16": [cell(40.0, 30.0, 0.5), cell(20.0, 10.0, None)],
        bench.EAGER: [cell(4.0, 3.0, 0.5), cell(10.0, 9.0, None)],
        bench.BF16: [cell(20.0, 10.0, 0.5), cell(5.0, 4.0, None)],
    }
    head, first, second, *_ = bench.lines(table, [(8, 1), (2, 4)])
    assert re.search(r"x eager fp32 +x bf16 channels-last +of peak$", head)
    assert first.split()[-3:] == ["10.00", "2.00", "50.0%"]
    assert second.split()[-3:] == ["2.00", "4.00", "-"]
    del table[bench.EAGER]
    assert bench.lines(table, [(8, 1), (2, 4)])[1].split()[-3] == "-"


def test_peaks_are_those_of_the_rows_own_precision(bench):
    names = list(bench.rows(Path("w"), Path(), "cuda", 8))
    assert [n for n in names if bench.precision_of(n) == "half"] == [
        "torch bf16 channels-last",
        "torch.compile bf16",
        "TensorRT fp16",
    ]
    assert [n for n in names if bench.precision_of(n) == "tf32"] == ["torch eager tf32"]
