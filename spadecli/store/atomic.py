"""Atomic writes: a file is written under a temporary name, synced to disk, and renamed when complete."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..core.errors import UserError


@contextmanager
def part_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it is renamed to ``path``, on failure it is removed.

    The folder is created. The name contains the process id, so that two processes never share a part file.
    Raises UserError if the folder cannot be created or written to.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        mode = part.stat().st_mode
    except OSError as e:
        raise UserError(f"{path}: cannot be written ({e.strerror})", hint="name another place for the output") from e
    try:
        yield part
        with open(part, "rb+") as f:
            os.fsync(f.fileno())
        part.chmod(mode)  # a writer may have replaced the file and its mode (safetensors: 0600)
        os.replace(part, path)
    except BaseException:
        with suppress(FileNotFoundError):
            part.unlink()
        raise


@contextmanager
def lock_file(path: Path, busy: Exception, patience: float = 0) -> Iterator[None]:
    """Hold a lock on ``path``, which is created if missing; raise ``busy`` if another process holds it.

    The lock ends with the process, even a killed one. ``patience``: seconds to wait for a process that is ending.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        f = open(path, "ab")  # noqa: SIM115
    except OSError as e:
        raise UserError(f"{path}: cannot be written ({e.strerror})", hint="name another place for the output") from e
    with f:
        deadline = time.monotonic() + patience
        while True:
            try:
                lock(f.fileno(), busy)
                break
            except type(busy):
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.2)
        yield


def lock(descriptor: int, busy: Exception) -> None:
    """Lock an open file for this process; raise ``busy`` if it is locked. No-op on systems without such locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise busy from None
    except OSError:  # a network file system without locks
        return


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    with part_file(path) as part:
        part.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` (UTF-8) to ``path`` atomically."""
    write_bytes(path, text.encode())


def remove_parts(folder: Path) -> None:
    """Remove the part files of killed processes below ``folder``; no other process may be writing there."""
    for part in folder.rglob("*.part"):
        if part.suffixes[-2:-1] and part.suffixes[-2][1:].isdigit():
            part.unlink(missing_ok=True)
