"""Batch norm over several processes is batch norm of the whole batch."""

import pytest
import torch
from together import succeed
from torch import nn

from spadecli.core.ranks import Ranks
from spadecli.training.distributed import join
from spadecli.training.sync_norm import SyncBatchNorm2d, synchronize_norms

pytestmark = pytest.mark.dist


def compare(sizes: list[int], affine: bool, dtype: torch.dtype, channels_last: bool, tolerance: float) -> None:
    """This process's part through the synchronized norm, the whole batch through torch's own."""
    ranks = Ranks.from_environment()
    generator = torch.Generator().manual_seed(3)
    torch.manual_seed(0)
    whole = nn.BatchNorm2d(5, affine=affine)
    network = nn.Sequential(nn.BatchNorm2d(5, affine=affine))
    network.load_state_dict({f"0.{k}": v for k, v in whole.state_dict().items()})
    if dtype == torch.float64:
        whole, network = whole.double(), network.double()
    first = sum(sizes[: ranks.rank])
    part = slice(first, first + sizes[ranks.rank])
    with join(ranks) as processes:
        synchronize_norms(network, processes.group)
        assert type(network[0]) is SyncBatchNorm2d
        assert network.state_dict().keys() == {f"0.{k}" for k in whole.state_dict()}
        for _ in range(2):
            x, weights = (torch.randn(sum(sizes), 5, 4, 6, generator=generator, dtype=torch.float64) for _ in "ab")
            x = (3 + 2 * x).to(dtype)
            weights = weights.to(dtype)
            if channels_last:
                x = x.contiguous(memory_format=torch.channels_last)
            mine, full = x[part].clone().requires_grad_(), x.clone().requires_grad_()
            out, expected = network(mine), whole(full)
            (out * weights[part]).sum().backward()
            (expected * weights).sum().backward()
            close = {"rtol": tolerance, "atol": tolerance}
            assert out.dtype == dtype
            torch.testing.assert_close(out, expected[part], **close)
            torch.testing.assert_close(mine.grad, full.grad[part], **close)
            for name, value in whole.state_dict().items():
                torch.testing.assert_close(network.state_dict()[f"0.{name}"], value, rtol=min(tolerance, 1e-5), atol=0)
            for p, q in zip(network.parameters(), whole.parameters(), strict=True):
                summed = processes.mean(p.grad) * ranks.size
                torch.testing.assert_close(summed, q.grad, **close)
        torch.testing.assert_close(network.eval()(mine), whole.eval()(full)[part], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("sizes", [[2, 2], [3, 1], [2, 1, 1, 2]])
@pytest.mark.parametrize("affine", [False, True])
def test_outputs_statistics_and_gradients_are_those_of_the_whole_batch(tmp_path, sizes, affine):
    succeed(len(sizes), tmp_path, compare, sizes, affine, torch.float64, False, 1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_channels_last_and_half_precision(tmp_path, dtype, tolerance):
    succeed(2, tmp_path, compare, [2, 2], False, dtype, True, tolerance)
