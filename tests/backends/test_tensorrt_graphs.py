"""Recordings of TensorRT launches: each belongs to an execution context that nothing changes afterwards."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spadecli.backends import tensorrt_backend
from spadecli.backends.tensorrt_backend import _Network, _Slot


class Context:
    """Doubles its input; remembers what it was told."""

    def __init__(self, memory):
        self.memory, self.shape, self.addresses, self.changes = memory, None, {}, 0

    def set_input_shape(self, name, shape):
        self.shape, self.changes = tuple(shape), self.changes + 1
        return shape[0] <= 4

    def set_tensor_address(self, name, address):
        self.addresses[name], self.changes = address, self.changes + 1

    def get_tensor_shape(self, name):
        return self.shape

    def execute_async_v3(self, stream):
        if Graph.recording is not None:
            Graph.recording.append((self, self.changes))
            return True
        self.memory[self.addresses["y"]].copy_(2 * self.memory[self.addresses["x"]].view(-1)[: np.prod(self.shape)])
        return True


class Graph:
    recording = None
    replays = 0

    def __init__(self):
        self.calls = []

    def replay(self):
        Graph.replays += 1
        for context, changes in self.calls:
            assert context.changes == changes, "the context has been changed since it was recorded"
            context.execute_async_v3(0)


class capture(nullcontext):  # noqa: N801
    def __init__(self, graph, stream=None, capture_error_mode="global"):
        assert capture_error_mode == "thread_local"
        self.graph = graph

    def __enter__(self):
        Graph.recording = self.graph.calls

    def __exit__(self, *error):
        Graph.recording = None


@pytest.fixture
def network(monkeypatch):
    stream = SimpleNamespace(cuda_stream=0, synchronize=lambda: None, wait_stream=lambda other: None)
    event = SimpleNamespace(record=lambda stream: None, synchronize=lambda: None)
    for name, stand_in in {
        "Event": lambda: event, "stream": lambda s: nullcontext(), "device": lambda d: nullcontext(),
        "CUDAGraph": Graph, "graph": capture,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, stand_in)
    empty = torch.empty

    def unpinned(*args, pin_memory=False, **kwargs):
        return empty(*args, **kwargs)

    monkeypatch.setattr(torch, "empty", unpinned)
    memory = {}

    class Slot(_Slot):
        def views(self, name, shape, dtype, device):
            host, on_device = super().views(name, shape, dtype, device)
            memory[on_device.data_ptr()] = on_device.view(-1)
            return host, on_device

    network = object.__new__(_Network)
    network.contexts = []

    def new_context():
        network.contexts.append(Context(memory))
        return network.contexts[-1]

    network.engine = SimpleNamespace(
        get_tensor_dtype=lambda name: SimpleNamespace(name="FLOAT"), create_execution_context=new_context
    )
    network.device, network.compute, network.back = torch.device("cpu"), stream, stream
    network.outputs, network.slots, network._graphs = ["y"], [Slot(), Slot()], {}
    network.context, network._record_graphs = new_context(), True
    Graph.replays = 0
    return network


def doubled(network, parts):
    return [out["y"].copy() for _, out in network.run_all((i, {"x": part}) for i, part in enumerate(parts))]


def test_every_recording_has_a_context_of_its_own(network):
    random = np.random.default_rng(0)
    for _ in range(3):  # two shapes in turn, so that the common context changes between the replays of either
        parts = [random.random((n, 3)).astype(np.float32) for n in (2, 2, 3, 3, 2, 2)]
        for out, part in zip(doubled(network, parts), parts, strict=True):
            np.testing.assert_array_equal(out, 2 * part)
    assert Graph.replays >= 4
    recorded = [context for _, context in network._graphs.values()]
    assert len({id(c) for c in recorded}) == len(recorded) <= tensorrt_backend.MAX_GRAPHS
    assert network.context not in recorded


def test_a_shape_that_the_profile_lacks_is_refused(network):
    with pytest.raises(Exception, match="rejects x of shape"):
        doubled(network, [np.zeros((5, 3), np.float32)])


class Engine:
    """An engine of TensorRT for RTX whose kernels are compiled on first use."""

    num_io_tensors = 0

    def __init__(self, blob):
        self.blob = blob

    def create_runtime_config(self):
        def cache():
            held = []
            return SimpleNamespace(deserialize=held.append, held=held, serialize=lambda: b"kernels of " + self.blob)

        return SimpleNamespace(create_runtime_cache=cache, set_runtime_cache=lambda cache: None)

    def create_execution_context(self, config):
        return object()


def test_each_engine_has_kernels_of_its_own(monkeypatch, tmp_path):
    """An encoder lies beside its generator in one file of weights; their kernels are different ones."""
    runtime = SimpleNamespace(deserialize_cuda_engine=Engine)
    trt = SimpleNamespace(Runtime=lambda log: runtime, TensorIOMode=SimpleNamespace(INPUT=0))
    for name, stand_in in {
        "load_runtime": lambda runtime: trt, "side_of": lambda record: SimpleNamespace(runtime="tensorrt-rtx"),
        "make_logger": lambda trt, report: SimpleNamespace(errors=[]), "cache_dir": lambda: tmp_path,
    }.items():  # fmt: skip
        monkeypatch.setattr(tensorrt_backend, name, stand_in)
    for name, stand_in in {
        "device": lambda device: nullcontext(), "Stream": lambda device: None, "Event": lambda: None
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, stand_in)
    for blob in (b"generator", b"encoder"):
        first = _Network(None, blob, torch.device("cpu"))
        assert first._kernels.held == []
        first.save_kernels()
    for blob in (b"generator", b"encoder"):
        assert _Network(None, blob, torch.device("cpu"))._kernels.held == [b"kernels of " + blob]
