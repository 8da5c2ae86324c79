"""torch raises no error of its own where a CPU has no memory left."""

import numpy as np
import pytest
from conftest import ROOT

from spadecli.backends.torch_backend import TorchBackend


@pytest.mark.parametrize("form", ["plain", "fast"])
def test_no_memory_on_the_cpu_is_a_memory_error(form, monkeypatch):
    mask, z = np.zeros((1, 256, 256), np.uint8), np.zeros((1, 64), np.float32)
    with TorchBackend(ROOT / "weights" / "facades.safetensors", "cpu", form) as backend:
        kind = type(backend._generator)
        for message, error in (
            ("DefaultCPUAllocator: can't allocate memory: you", MemoryError),
            ("other", RuntimeError),
        ):

            def fail(*_, message=message):
                raise RuntimeError(message)

            monkeypatch.setattr(kind, "__call__", fail)
            with pytest.raises(error, match=message[:8]):
                backend.run(mask, None, z)
