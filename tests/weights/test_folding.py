"""Folding batch norm into the modulation leaves SPADE the same function."""

import pytest
import torch
from torch.nn import functional as F

from spadecli.model.semantic import SemanticMap
from spadecli.model.spade import SPADE
from spadecli.weights.folding import can_fold, folded_modulation


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_folded_modulation_is_the_layer(norm):
    torch.manual_seed(0)
    layer = SPADE(6, semantic_channels=4, hidden=5, kernel=3, norm=norm).double().eval()
    if norm == "batch":
        layer.norm.running_mean.uniform_(-2, 2)
        layer.norm.running_var.uniform_(0.1, 3)
    semantic = SemanticMap(torch.randint(4, (2, 8, 8)), None, 4)
    x = torch.randn(2, 6, 8, 8, dtype=torch.float64)
    weight, bias = folded_modulation(layer)
    hidden = F.relu(layer.shared(semantic.planes((8, 8), torch.float64)))
    scale, shift = F.conv2d(hidden, weight, bias, padding=1).chunk(2, 1)
    out = (x if can_fold(layer) else layer.norm(x)) * scale + shift
    torch.testing.assert_close(out, layer(x, semantic), rtol=0, atol=1e-12)
    assert can_fold(layer) == (norm == "batch")
