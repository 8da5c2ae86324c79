"""Ctrl-C and SIGTERM while something is computed that has to be saved first."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def graceful_stop(repeated: bool = False) -> Iterator[Callable[[], bool]]:
    """While open, the first Ctrl-C or SIGTERM asks to stop after the present step; a second one stops at once.

    repeated: it does not, for torchrun forwards what the terminal has sent already, and ends all after 30 s.
    """
    asked = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        if asked and not repeated:
            raise KeyboardInterrupt
        asked = True

    try:
        before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: nothing to catch
        before = {}
    try:
        yield lambda: asked
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
