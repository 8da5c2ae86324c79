"""Which calls are recorded, and what is done where that fails; on CUDA the images."""

import numpy as np
import pytest
import torch

from spadecli.backends import cuda_graphs
from spadecli.backends.cuda_graphs import MAX_GRAPHS, MAX_ROWS, Recorded


class Device:
    """Stands in for recording: a replay does the recorded call again, on the tensors that were recorded."""

    def __init__(self, error=None, off_by=0.0):
        self.recordings, self.replays, self.error, self.off_by = 0, 0, error, off_by

    def capture(self, compute):
        if self.error:
            raise self.error
        self.recordings += 1
        out = torch.empty_like(compute())

        def replay():
            self.replays += 1
            out.copy_(compute() + self.off_by)

        return replay, out


def recorded(monkeypatch, **options):
    device = Device(**options)
    monkeypatch.setattr(cuda_graphs, "capture", device.capture)
    return Recorded(lambda x, y: x * 2 + (0 if y is None else y)), device


def test_a_shape_is_recorded_once_and_replayed_with_each_call_s_inputs(monkeypatch):
    compute, device = recorded(monkeypatch)
    for i in range(3):
        assert torch.equal(compute(torch.full((2, 3), 1.0 * i), torch.ones(2, 3)), torch.full((2, 3), 2.0 * i + 1))
    assert (device.recordings, device.replays) == (1, 3)  # a first replay is the check
    assert torch.equal(compute(torch.ones(2, 3), None), torch.full((2, 3), 2.0))
    assert device.recordings == 2


def test_large_batches_and_too_many_shapes_are_not_recorded(monkeypatch):
    compute, device = recorded(monkeypatch)
    compute(torch.ones(MAX_ROWS + 1, 1), None)
    assert device.recordings == 0
    for width in range(1, MAX_GRAPHS + 3):
        compute(torch.ones(1, width), None)
    assert device.recordings == MAX_GRAPHS


@pytest.mark.parametrize("options", [{"error": RuntimeError("operation not permitted")}, {"off_by": 0.1}])
def test_where_recording_fails_calls_stay_ordinary(monkeypatch, options):
    compute, device = recorded(monkeypatch, **options)
    with pytest.warns(UserWarning, match="CUDA graphs are not used"):
        compute(torch.ones(2, 3), None)
    for i in range(3):
        assert torch.equal(compute(torch.full((2, 3), 1.0 * i), None), torch.full((2, 3), 2.0 * i))
    assert compute.why_not
    assert device.replays <= 1


def test_a_replay_that_does_nothing_is_no_recording(monkeypatch):
    """As when the work runs on another device than the one that records: the buffer holds the capture's own images."""
    monkeypatch.setattr(cuda_graphs, "capture", lambda compute: (lambda: None, compute().clone()))
    compute = Recorded(lambda x, y: x * 2)
    with pytest.warns(UserWarning, match="a replay gave other images"):
        compute(torch.ones(2, 3), None)
    for i in range(3):
        assert torch.equal(compute(torch.full((2, 3), 1.0 * i), None), torch.full((2, 3), 2.0 * i))


class OnTheSecondGPU(torch.Tensor):
    is_cuda, device = True, torch.device("cuda", 1)


def test_calls_are_recorded_on_the_device_of_their_images(monkeypatch):
    done = []

    class Current:
        def __init__(self, device):
            self.device = device

        def __enter__(self):
            done.append(self.device)

        def __exit__(self, *error):
            done.append("left")

    def capture(compute):
        done.append("recorded")
        return lambda: out.copy_(compute()), (out := torch.empty_like(compute()))

    monkeypatch.setattr(torch.cuda, "device", Current)
    monkeypatch.setattr(cuda_graphs, "capture", capture)
    Recorded(lambda x: (x * 2).as_subclass(OnTheSecondGPU))(torch.ones(2, 3))
    assert done == [torch.device("cuda", 1), "recorded", "left"]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_replayed_images_are_those_of_ordinary_calls(precision):
    from conftest import ROOT

    from spadecli.backends.torch_backend import TorchBackend

    rng = np.random.default_rng(0)
    with TorchBackend(ROOT / "weights" / "facades.safetensors", "cuda", "plain", precision) as backend:
        for _ in range(4):
            mask, z = rng.integers(0, 12, (1, 256, 256), np.uint8), rng.standard_normal((1, 64)).astype(np.float32)
            images = backend.run(mask, None, z)
            again = backend.run(mask.repeat(9, 0), None, z.repeat(9, 0))  # too many rows to be recorded
            assert np.abs(images[0] - again[0]).max() < (1e-3 if precision == "fp32" else 0.1)
        assert not backend.recorded.why_not
