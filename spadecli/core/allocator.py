"""How torch allocates large tensors on the CPU."""

from __future__ import annotations

import os


def use_huge_pages() -> None:
    """Make torch request 2 MB pages for large tensors on the CPU; call it before torch is imported.

    The memory of a large tensor comes fresh from the kernel, which zeroes each page on first touch: with 4 kB pages
    that takes longer than most operations on the tensor. Only Linux has such pages; elsewhere nothing changes. A value
    that the user has set is kept.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
