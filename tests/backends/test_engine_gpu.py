"""Engines where they run: on a CUDA GPU. Elsewhere these are skipped; what can be checked there is in test_build."""

import importlib.util

import numpy as np
import pytest
import torch
from conftest import ROOT

import spadecli
from spadecli.backends.profile import Profile
from spadecli.backends.verify import fixed_inputs
from spadecli.commands.convert.command import ConvertOptions, convert

pytestmark = pytest.mark.gpu
WEIGHTS = ROOT / "weights" / "facades.safetensors"
KIND = "tensorrt" if importlib.util.find_spec("tensorrt") else "tensorrt-rtx"


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """An fp32 engine that takes two masks and two samples at most."""
    path = tmp_path_factory.mktemp("engine") / "facades.engine"
    return convert(ConvertOptions(WEIGHTS, path, to=KIND, profile=Profile((1, 2, 2), (1, 2, 2)))).path


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_an_engine_that_ran_is_within_its_tolerance(precision, tmp_path):
    result = convert(ConvertOptions(WEIGHTS, tmp_path / "f.engine", to=KIND, precision=precision))
    assert result.verification.stood_in == ""
    assert result.verification.ran.startswith(f"{KIND} {precision} on cuda")
    assert result.verification.problems == []


def test_transfers_are_pinned_and_overlap_on_streams_of_their_own(engine):
    with spadecli.open_backend(engine, "cuda") as backend:
        labels, _, z = fixed_inputs(backend.card, 5, 3)  # six calls: each of the two slots is used again
        images = backend.run(labels, None, z)
        network = backend._generator
        assert len({s.cuda_stream for s in (network.compute, network.back, torch.cuda.default_stream())}) == 3
        for slot in network.slots:
            assert set(slot.host) == {"labels", "z", "images"}
            assert all(t.is_pinned() for t in slot.host.values())
            assert all(t.is_cuda for t in slot.device.values())
        # what one call leaves in the buffers does not reach another one's images
        alone = [backend.run(labels[m : m + 1], None, z[3 * m : 3 * m + 3]) for m in range(5)]
        np.testing.assert_allclose(images, np.concatenate(alone), atol=2e-5)
    with spadecli.open_backend(WEIGHTS, "cpu") as reference:
        np.testing.assert_allclose(images, reference.run(labels, None, z), atol=1e-4)


def test_replayed_launches_take_new_inputs(engine):
    with spadecli.open_backend(engine, "cuda") as backend:
        network = backend._generator
        labels, _, z = fixed_inputs(backend.card, 2, 2)
        first = backend.run(labels, None, z)
        if network._record_graphs:
            assert len(network._graphs) == 1
        else:  # TensorRT for RTX records its launches itself
            assert network._kernels is not None
        others, _, other_z = fixed_inputs(backend.card, 2, 2, seed=1)
        changed = backend.run(others, None, other_z)
        assert np.abs(changed - first).max() > 1e-2
        np.testing.assert_array_equal(backend.run(labels, None, z), first)
        assert len(network._graphs) <= 1
        backend.run(labels[:1], None, z[:1])  # another shape is another recording
        assert len(network._graphs) == (2 if network._record_graphs else 0)
