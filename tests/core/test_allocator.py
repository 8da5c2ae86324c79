"""Freed memory stays with the process: a second large tensor takes no new pages."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from spadecli.core.allocator import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("no glibc")
for _ in range(2):
    torch.ones(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    torch.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages_taken(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], check=False, capture_output=True, text=True)
    if "no glibc" in done.stderr:
        pytest.skip("the C library is not glibc")
    return int(done.stdout)


def test_large_tensors_reuse_what_was_freed():
    assert pages_taken("keep") < 0.1 * pages_taken("as it is")
