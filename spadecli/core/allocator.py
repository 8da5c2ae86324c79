"""What becomes of memory that a tensor no longer needs."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process keep what it frees for its next allocations; returns whether the C library knows how.

    By default glibc takes every large block from the kernel and gives it back at once. The kernel clears each page of
    a new block as it is touched, and in training on a CPU that takes longer than most operations on the tensor.
    The process then holds some more memory than it uses at its peak.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, 1 << 30) and mallopt(M_TRIM_THRESHOLD, LARGEST))
