"""How memory for large tensors is taken from the kernel."""

from __future__ import annotations

import os


def use_huge_pages() -> None:
    """Let torch ask the kernel for pages of 2 MB for large tensors on the CPU; before torch is imported.

    A large tensor's memory comes fresh from the kernel, which clears each page as it is touched: with pages of 4 kB
    that takes longer than most operations on the tensor. Linux alone knows of this; elsewhere nothing changes, and
    whoever has set the variable keeps what they set.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
