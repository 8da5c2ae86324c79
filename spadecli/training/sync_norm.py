"""Synchronised batch norm: statistics over the batches of all processes, on CPU and CUDA.

torch's own ``nn.SyncBatchNorm`` takes no CPU tensors and so cannot be tested without GPUs; this one runs over gloo
and NCCL.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from ..compute.autograd import first_order_only

PIXELS = (0, 2, 3)


class SyncBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` over the whole batch, of which each process of ``group`` holds a part.

    Outputs, running statistics and gradients are those of the whole batch. Gradients of weight and bias are
    sums over this process's part: averaging them over the processes is left to DistributedDataParallel.
    The state dict is that of ``nn.BatchNorm2d``, and so is the function in evaluation.
    """

    group: dist.ProcessGroup

    def forward(self, input: Tensor) -> Tensor:
        """[n,C,H,W] -> the same shape and dtype; every process must call it, with any n above 0."""
        if not self.training:
            return super().forward(input)
        out: Tensor
        out, mean, var = _SyncBatchNorm.apply(input, self.weight, self.bias, self.eps, self.group)  # type: ignore[no-untyped-call]
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                momentum = 1 / self.num_batches_tracked.double() if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
                self.running_var.lerp_(var.to(self.running_var.dtype), momentum)
        return out


def synchronize_norms(network: nn.Module, group: dist.ProcessGroup) -> None:
    """Replace every ``nn.BatchNorm2d`` in ``network`` by a synchronised one with the same parameters and buffers."""
    for parent in list(network.modules()):
        for name, norm in parent.named_children():
            if type(norm) is nn.BatchNorm2d:
                synced = SyncBatchNorm2d(norm.num_features, norm.eps, norm.momentum, norm.affine)
                synced.weight, synced.bias = norm.weight, norm.bias
                synced.running_mean, synced.running_var = norm.running_mean, norm.running_var
                synced.num_batches_tracked = norm.num_batches_tracked
                synced.group = group
                setattr(parent, name, synced.train(norm.training))


class _SyncBatchNorm(torch.autograd.Function):
    """Normalized x; mean and unbiased variance of the whole batch, which carry no gradient.

    Statistics and sums are in float32 or wider, whatever the dtype of x. The mean and variance of each process are
    gathered and combined (Chan et al. 1979), as sums of squares would lose digits.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, group: dist.ProcessGroup
    ) -> tuple[Tensor, Tensor, Tensor]:
        var, mean = torch.var_mean(_wide(x), PIXELS, correction=0)
        channels = len(mean)
        mine = torch.cat([mean, var, mean.new_full((1,), x.numel() // channels)])
        gathered = mine.new_empty(dist.get_world_size(group), len(mine))
        dist.all_gather(list(gathered.unbind()), mine, group)

        means, variances, counts = torch.split(gathered, [channels, channels, 1], 1)
        total = counts.sum()
        share = counts / total
        mean = (share * means).sum(0)
        var = (share * (variances + (means - mean).square())).sum(0)
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(var + eps), total)
        ctx.group = group
        unbiased = var * (total / (total - 1))
        ctx.mark_non_differentiable(mean, unbiased)
        return F.batch_norm(x, mean, var, weight, bias, eps=eps), mean, unbiased

    @staticmethod
    @first_order_only
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, invstd, total = ctx.saved_tensors
        wide = _wide(gradient)
        normed = (_wide(x) - _planes(mean)).mul_(_planes(invstd))
        sums = torch.stack([wide.sum(PIXELS), (wide * normed).sum(PIXELS)])
        of_all = sums.clone()
        dist.all_reduce(of_all, group=ctx.group)
        of_gradient, of_product = of_all / total
        scale = invstd if weight is None else invstd * weight
        # scale · (dy - mean(dy) - normed · mean(dy · normed))
        shifted = torch.addcmul(wide - _planes(of_gradient), normed, _planes(of_product), value=-1)
        of_x = shifted.mul_(_planes(scale)).to(x.dtype)
        of_weight = of_bias = None
        if weight is not None:
            of_bias, of_weight = sums.to(weight.dtype)
        return of_x, of_weight, of_bias, None, None


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _planes(values: Tensor) -> Tensor:
    """[C] -> [C,1,1], to broadcast over [N,C,H,W]."""
    return values[:, None, None]
