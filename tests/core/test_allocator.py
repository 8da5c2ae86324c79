"""Large tensors come in huge pages where the kernel has them."""

import subprocess
import sys
from pathlib import Path

import pytest

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SCRIPT = """
import resource, sys
from spadecli.core.allocator import use_huge_pages
if sys.argv[1] == "huge":
    use_huge_pages()
import torch
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    torch.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages_taken(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], check=True, capture_output=True, text=True)
    return int(done.stdout)


def test_large_tensors_take_few_pages():
    if not SETTING.is_file() or "[never]" in SETTING.read_text():
        pytest.skip("this kernel gives no huge pages")
    of_4096 = 4 * (1 << 26) // 4096  # what the tensors would take; some kernels give larger pages unasked
    assert pages_taken("huge") < 0.5 * of_4096
