"""Device names, and float32 that is float32."""

from types import SimpleNamespace

import pytest
import torch

from spadecli.compute.devices import DeviceName, exact_math, fp32_math, onnxruntime_providers, pick_device
from spadecli.core.errors import BackendUnavailable, UserError


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "auto:1", "mps", ""])
def test_names_that_mean_no_device(name):
    with pytest.raises(UserError, match="expected auto, cpu, cuda or cuda:N"):
        DeviceName.parse(name)
    with pytest.raises(UserError):
        pick_device(name)


def test_names_are_read_once():
    assert DeviceName.parse("cuda:3") == ("cuda", 3)
    assert DeviceName.parse("cuda") == ("cuda", None)
    assert DeviceName.parse("auto") == ("auto", None)
    assert pick_device("cpu") == torch.device("cpu")


def test_a_gpu_that_is_not_there():
    with pytest.raises(BackendUnavailable, match="CUDA devices"):
        pick_device("cuda:99")


def test_a_listed_gpu_whose_driver_does_not_answer_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # NVML answers
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # CUDA does not
    assert pick_device("auto").type == "cpu"
    with pytest.raises(BackendUnavailable):
        pick_device("cuda")


def precisions():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic


@pytest.mark.parametrize(
    ("context", "inside"), [(fp32_math, (False, False, False)), (exact_math, (False, False, True))]
)
def test_fp32_is_ieee_inside_and_as_it_was_outside(context, inside):
    before = precisions()
    with context():
        assert precisions() == inside
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            pass
    assert precisions() == before


def test_tf32_on_request():
    with fp32_math(tf32=True):
        assert precisions()[:2] == (True, True)
        assert torch.backends.cudnn.conv.fp32_precision == "tf32"
    with fp32_math():
        assert torch.backends.cudnn.conv.fp32_precision != "tf32"


def runtime(*providers):
    return SimpleNamespace(get_available_providers=lambda: list(providers), __version__="1.0")


def test_onnx_runtime_gets_the_number_of_the_gpu():
    name, providers = onnxruntime_providers(runtime("CUDAExecutionProvider", "CPUExecutionProvider"), "cuda:2")
    assert name == "cuda:2"
    assert providers[0][0] == "CUDAExecutionProvider"
    assert providers[0][1]["device_id"] == "2"
    assert providers[-1] == "CPUExecutionProvider"


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_onnx_runtime_without_cuda_runs_on_the_cpu(device):
    assert onnxruntime_providers(runtime("CPUExecutionProvider"), device) == ("cpu", ["CPUExecutionProvider"])
    with pytest.raises(BackendUnavailable, match="has no CUDA"):
        onnxruntime_providers(runtime("CPUExecutionProvider"), "cuda")
