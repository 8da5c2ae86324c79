"""Training one model in several processes: how they join, agree, share state, and fail.

There are two process groups: one for control, over gloo on the CPU, which never waits for a device; and one for
gradients and batch-norm statistics, over NCCL on CUDA.
"""

from __future__ import annotations

import inspect
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..compute.devices import use_device
from ..core.errors import SpadeError, UserError
from ..core.ranks import Ranks
from .rendezvous import rendezvous
from .sync_norm import synchronize_norms

P = ParamSpec("P")
T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)  # process 0 may validate for this long while the others wait
END_AWAITED = 3.0  # seconds within which torchrun, once one process has failed, ends the others
LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|timed? ?out", re.IGNORECASE)


class ProcessesLost(SpadeError):
    """The other processes cannot be reached: one of them failed, and its own message says why."""

    secondary = True


class Processes:
    """The processes of a run. With a single process every method is a plain call."""

    def __init__(self, ranks: Ranks | None = None, control: dist.ProcessGroup | None = None) -> None:
        self.ranks = ranks or Ranks()
        self.control = self.group = control

    @property
    def many(self) -> bool:
        """Whether there is more than one process."""
        return self.control is not None

    @property
    def is_main(self) -> bool:
        """Whether this process reports, decides and writes."""
        return self.ranks.is_main

    def use(self, device: torch.device) -> torch.device:
        """Compute on ``device`` from now on, of the same type in all processes; return it with its index."""
        device = use_device(device)
        if device.type == "cuda" and self.many:
            self.group = dist.new_group(backend="nccl", timeout=TIMEOUT, device_id=device)
        return device

    def on_main_broadcast(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function`` in process 0 alone and return its result in every process; the others wait.

        A SpadeError is raised in every process, but printed only by process 0.
        """
        if self.control is None:
            return function(*args, **kwargs)
        outcome: list[Any] = [None, None]
        failure: BaseException | None = None
        if self.is_main:
            try:
                outcome[0] = function(*args, **kwargs)
            except BaseException as e:
                failure = e
                outcome[1] = _as_common(e, "")
        dist.broadcast_object_list(outcome, 0, self.control)
        if failure is not None and not isinstance(failure, SpadeError):
            raise failure
        if outcome[1] is not None:
            raise outcome[1]
        return cast(T, outcome[0])

    def on_main(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Like :meth:`on_main_broadcast`, but return the result in process 0 only, and None elsewhere."""
        kept: list[T] = []
        self.on_main_broadcast(lambda: kept.append(function(*args, **kwargs)))
        return kept[0] if kept else None

    def on_all(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function`` in every process and return its result; an error in any of them is raised in all."""
        if self.control is None:
            return function(*args, **kwargs)
        result: T | None = None
        failure: BaseException | None = None
        try:
            result = function(*args, **kwargs)
        except BaseException as e:
            failure = e
        errors = self._gather(None if failure is None else _as_common(failure, self._name()))
        if failure is not None and not isinstance(failure, SpadeError):
            raise failure
        if found := next((e for e in errors if e is not None), None):
            raise found
        return cast(T, result)

    def any(self, wish: bool) -> bool:
        """Return whether ``wish`` is true in any process. Waits for the other processes, never for a device."""
        if self.control is None:
            return wish
        flag = torch.tensor([int(wish)])
        dist.all_reduce(flag, dist.ReduceOp.MAX, self.control)
        return bool(flag.item())

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of ``values`` over the processes."""
        if self.group is None:
            return values
        summed = values.clone()
        dist.all_reduce(summed, group=self.group)
        return summed / self.ranks.size

    def check_equal(self, what: str, value: str, hint: str) -> None:
        """Raise UserError in every process if ``value`` is not the same in all of them."""
        if self.control is None:
            return
        values = self._gather((value, self._name()))
        problems = [f"{name}: {v}" for v, name in values if v != values[0][0]]
        if problems:
            error = UserError(f"{what} differs; {values[0][1]}: {values[0][0]}", problems=problems, hint=hint)
            error.common = True
            raise error

    def broadcast_state(self, state: Any) -> Any:
        """Return the main process's ``state``, a tree of dicts, lists and tuples of tensors and other values.

        The other processes get its tensors on the CPU. They keep their strides, except that tensors with gaps or
        overlapping elements arrive dense.
        """
        if self.control is None:
            return state
        tensors: list[Tensor] = []
        skeleton = _without_tensors(state, tensors) if self.is_main else None
        skeleton = self.on_main_broadcast(lambda: skeleton)
        if not self.is_main:
            tensors = _empty_tensors(skeleton)
        for tensor in tensors:
            dist.broadcast(_memory(tensor.cpu()), 0, self.control)
        return state if self.is_main else _with_tensors(skeleton, iter(tensors))

    def parallel(self, network: nn.Module) -> nn.Module:
        """Wrap ``network`` so that its gradients are means over all processes and its batch norms are synchronised.

        Batch-norm statistics and spectral-norm vectors come out equal in every process, so buffers are not broadcast.
        """
        if self.group is None:
            return network
        synchronize_norms(network, self.group)
        names = inspect.signature(DistributedDataParallel).parameters
        keep_buffers = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
        options: dict[str, Any] = {keep_buffers: False, "gradient_as_bucket_view": True}
        return DistributedDataParallel(network, process_group=self.group, **options)

    def _gather(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.ranks.size
        dist.all_gather_object(values, value, self.control)
        return values

    def _name(self) -> str:
        return f"process {self.ranks.rank} on {socket.gethostname()}"


@contextmanager
def join(ranks: Ranks) -> Iterator[Processes]:
    """While open, the processes that torchrun started are joined; without torchrun there is a single one.

    Raises ProcessesLost if the others can no longer be reached.
    """
    if ranks.size == 1:
        yield Processes(ranks)
        return
    clean = False
    try:
        store = rendezvous(ranks, TIMEOUT)
        dist.init_process_group("gloo", store=store, timeout=TIMEOUT, rank=ranks.rank, world_size=ranks.size)
        try:
            yield Processes(ranks, dist.group.WORLD)
            clean = True
        except SpadeError as e:
            clean = e.common
            raise
        except KeyboardInterrupt:
            clean = True
            raise
    except (RuntimeError, OSError) as e:
        if LOST.search(str(e)) is None:
            raise
        if ranks.launched:
            time.sleep(END_AWAITED)  # torchrun ends this process, so that no second message buries the first
        line = re.sub(r"^\[[^\]]*\] *", "", str(e).strip()).splitlines()[0].split(". ")[0]
        raise ProcessesLost(
            f"lost the other processes ({line})", hint="the process that failed says why; the same command resumes"
        ) from e
    finally:
        if clean:  # otherwise a collective may hang, and only the end of the process ends it
            dist.destroy_process_group()


@contextmanager
def unsynchronized(networks: Mapping[str, nn.Module], wanted: bool) -> Iterator[None]:
    """While open, if ``wanted``, gradients of parallel networks accumulate in each process without an all-reduce."""
    with ExitStack() as stack:
        for network in networks.values():
            if wanted and isinstance(network, DistributedDataParallel):
                stack.enter_context(network.no_sync())
        yield


def _as_common(failure: BaseException, where: str) -> SpadeError:
    """Turn a failure into an error that every process raises; the traceback of a bug is printed where it happened."""
    if not isinstance(failure, SpadeError):
        error: SpadeError = ProcessesLost(f"{type(failure).__name__} in another process")
    elif where and not where.startswith("process 0 "):
        error = type(failure)(f"{where}: {failure.message}", hint=failure.hint, problems=failure.problems)
    else:
        error = failure
    error.common = True
    return error


class _Place:
    """Placeholder for a tensor in a tree: its shape, strides and dtype."""

    def __init__(self, tensor: Tensor) -> None:
        self.shape, self.stride, self.dtype = tuple(tensor.shape), tensor.stride(), tensor.dtype

    def empty(self) -> Tensor:
        """Allocate such a tensor."""
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype)


def _dense(tensor: Tensor) -> Tensor:
    """Detach the tensor; copy it if its memory has gaps or overlapping elements."""
    tensor = tensor.detach()
    # empty_like preserves the strides of a dense tensor, and returns a dense one otherwise
    is_dense = torch.empty_like(tensor, device="meta").stride() == tensor.stride()
    return tensor if is_dense else tensor.contiguous()


def _memory(dense: Tensor) -> Tensor:
    """Return the bytes of a dense tensor in memory order: gloo sends memory, ignoring strides."""
    return dense.as_strided((dense.numel(),), (1,)).view(torch.uint8)


def _without_tensors(tree: Any, tensors: list[Tensor]) -> Any:
    """Replace each tensor in a tree by a _Place, and append it, dense, to ``tensors``."""
    if isinstance(tree, Tensor):
        tensors.append(_dense(tree))
        return _Place(tensors[-1])
    if isinstance(tree, Mapping):
        return {key: _without_tensors(value, tensors) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_without_tensors(value, tensors) for value in tree)
    return tree


def _empty_tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, _Place):
        return [tree.empty()]
    values = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return [tensor for value in values for tensor in _empty_tensors(value)]


def _with_tensors(tree: Any, tensors: Iterator[Tensor]) -> Any:
    if isinstance(tree, _Place):
        return next(tensors)
    if isinstance(tree, dict):
        return {key: _with_tensors(value, tensors) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_with_tensors(value, tensors) for value in tree)
    return tree
