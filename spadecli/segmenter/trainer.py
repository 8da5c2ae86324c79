"""One training step of a segmenter, and the exponential moving average of its weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..compute.devices import fp32_math
from .card import SegmenterArchitecture
from .network import SegmentationNet

MAX_GRAD_NORM = 5.0
WARM_UP = 50  # steps
EMA_DECAY = 0.99


class SegmenterTrainer:
    """Network, optimizer (AdamW, cosine schedule) and moving average.

    weights: float32 [K], weight of a pixel of each class in the loss. ignored: the target that does not count.
    skipped: number of updates skipped because a gradient was not finite. bf16 on a CPU has produced such gradients when
    a convolution's output was a single pixel, but never at crops of 64 pixels or more.
    """

    def __init__(
        self,
        arch: SegmenterArchitecture,
        weights: Tensor,
        device: torch.device,
        *,
        ignored: int,
        seed: int = 0,
        lr: float = 3e-3,
        bf16: bool = False,
    ) -> None:
        torch.manual_seed(seed)
        self.device, self.lr, self.bf16, self.ignored = device, lr, bf16, ignored
        self.weights = weights.to(device)
        self.net = SegmentationNet(arch, len(weights)).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        kernels = [p for p in self.net.parameters() if p.ndim > 1]
        others = [p for p in self.net.parameters() if p.ndim <= 1]
        groups = [{"params": kernels, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=lr)
        self.skipped = 0
        self.average = {name: value.detach().clone() for name, value in self.net.state_dict().items()}

    def step(self, photos: Tensor, targets: Tensor, step: int, steps: int) -> Tensor:
        """Train on photos float32 [N,3,H,W] in [0,1] and targets uint8 [N,H,W]; return the loss, on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * schedule(step, steps)
        photos, targets = photos.to(self.device), targets.to(self.device).long()
        self.net.train()
        with fp32_math(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.net(photos)
        loss = F.cross_entropy(logits, targets, self.weights, ignore_index=self.ignored)
        if bool((targets != self.ignored).any()):  # the mean over no pixels would be NaN
            self.optimizer.zero_grad()
            with fp32_math():
                loss.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), MAX_GRAD_NORM)
            if bool(torch.isfinite(norm)):
                self.optimizer.step()
                self._follow(step)
            else:
                self.skipped += 1
        return loss.detach()

    @torch.no_grad()
    def _follow(self, step: int) -> None:
        """Move the average towards the weights, faster in the first steps."""
        decay = min(EMA_DECAY, (step + 1) / (step + 10))
        for name, value in self.net.state_dict().items():
            if value.dtype.is_floating_point:
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    def averaged(self) -> SegmentationNet:
        """Build a float32 network with the averaged weights, in evaluation mode, on the training device."""
        net = SegmentationNet(self.net.arch, len(self.weights))
        net.load_state_dict({name: value.cpu() for name, value in self.average.items()})
        return net.to(self.device).eval()

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to resume."""
        return {"net": self.net.state_dict(), "average": self.average, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.net.load_state_dict(state["net"])
        self.average = {name: value.to(self.device) for name, value in state["average"].items()}
        self.optimizer.load_state_dict(state["optimizer"])


def schedule(step: int, steps: int) -> float:
    """Return the learning rate factor: a short warm-up, and half a cosine to 0."""
    return min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))


def class_weights(counts: Tensor, balance: float = 0.5) -> Tensor:
    """Pixel counts [K] -> weights float32 [K]: frequency to the power of -balance, scaled to a mean of 1 over pixels.

    Classes that do not occur have weight 0.
    """
    share = counts.double() / counts.sum().clamp(min=1)
    weights = torch.where(share > 0, share.clamp(min=1e-4) ** -balance, 0.0)
    return (weights / (weights * share).sum().clamp(min=1e-12)).float()
