"""What `make test-gpu` says on a machine without a GPU."""

import os
import subprocess
import sys

from conftest import ROOT


def test_gpu_tests_are_skipped_with_the_reason_where_there_is_none():
    words = ["-m", "pytest", "-m", "gpu", "-rs", "-p", "no:cacheprovider", "tests/backends/test_engine_gpu.py"]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "needs a CUDA device; torch" in done.stdout
    assert "5 skipped" in done.stdout
