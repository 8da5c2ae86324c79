"""Running a function in several processes that find each other as torchrun's do, without starting Python anew."""

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

LONGEST = 400  # seconds; then it hangs


@dataclass(frozen=True)
class Ended:
    """How one of the processes ended, and what it printed."""

    code: int
    out: str
    err: str


def together(size: int, folder: Path, function: Callable, *args, port: int = 0) -> list[Ended]:
    """Call ``function(*args)`` in processes 0..size-1."""
    if not port:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
    # forked, nothing has to be imported again; but a process that has used CUDA cannot be
    context = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
    ranks = range(size)
    processes = [context.Process(target=_be, args=(r, size, port, folder, function, args)) for r in ranks]
    for process in processes:
        process.start()
    for process in processes:
        process.join(LONGEST)
        if process.exitcode is None:
            process.kill()
            process.join()
    texts = [[(folder / f"{name}_{r}").read_text() for name in ("out", "err")] for r in ranks]
    return [Ended(p.exitcode or 0, *text) for p, text in zip(processes, texts, strict=True)]


def succeed(size: int, folder: Path, function: Callable, *args, port: int = 0) -> list[Ended]:
    """As :func:`together`, but every process has to end well."""
    ended = together(size, folder, function, *args, port=port)
    assert [e.code for e in ended] == [0] * size, "\n".join(e.err for e in ended)
    return ended


def _be(rank: int, size: int, port: int, folder: Path, function: Callable, args: tuple) -> None:
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in variables.items()}, MASTER_ADDR="127.0.0.1")
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{name}_{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    torch.set_num_threads(1)
    code = 1
    try:
        function(*args)
        code = 0
    except SystemExit as e:
        code = int(e.code or 0)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
