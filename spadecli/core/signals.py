"""Ctrl-C and SIGTERM during work that has to be saved before it stops."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def graceful_stop(repeated: bool = False) -> Iterator[Callable[[], bool]]:
    """While open, the first Ctrl-C or SIGTERM requests a stop after the current step; a second one stops at once.

    Yields a function that returns whether a stop was requested.
    repeated: signals arrive more than once, so later ones are ignored. torchrun forwards a Ctrl-C that the terminal
        has already sent to each process, and kills all of them after 30 s.
    """
    asked = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        if asked and not repeated:
            raise KeyboardInterrupt
        asked = True

    try:
        before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: it receives no signals
        before = {}
    try:
        yield lambda: asked
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
