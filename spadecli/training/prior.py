"""The distribution that z is drawn from while training, where no photo is encoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

MEMORY = 0.98  # of the moments, at a step


class AggregatePosterior:
    """Mean and deviation of z over all photographs, for each dimension, averaged over the last fifty steps or so.

    The KL term keeps each photograph's posterior near N(0, I), but not their mixture: its variance is well above 1 in
    the dimensions that carry light and colours. Samples of N(0, I) are then greyer than encoded photographs, and z of
    the mixture is what a run with ``train.match_prior`` exports as its prior.
    """

    def __init__(self, z_dim: int, device: torch.device, dtype: torch.dtype) -> None:
        self.mean = torch.zeros(z_dim, device=device, dtype=dtype)
        self.square = torch.ones(z_dim, device=device, dtype=dtype)
        self._seen: list[Tensor] = []  # [2,Z] of each micro-batch since the last update

    def sample(self, eps: Tensor) -> Tensor:
        """Standard normal noise [N,Z] -> z [N,Z] with these moments."""
        return self.mean + (self.square - self.mean.square()).sqrt() * eps

    @torch.no_grad()
    def watch(self, mu: Tensor, logvar: Tensor) -> None:
        """Take in the posteriors [N,Z] of a micro-batch; :meth:`update` then moves the moments."""
        self._seen.append(torch.stack([mu.mean(0), (mu.square() + logvar.exp()).mean(0)]))

    def update(self, mean: Callable[[Tensor], Tensor] = lambda moments: moments) -> None:
        """Move the moments towards those of the photographs since the last update; ``mean`` is that over processes."""
        if self._seen:
            found = mean(torch.stack(self._seen).mean(0)).to(self.mean.dtype)
            self.mean.lerp_(found[0], 1 - MEMORY)
            self.square.lerp_(found[1], 1 - MEMORY)
            self._seen.clear()

    def state_dict(self) -> dict[str, Tensor]:
        """The moments, as tensors."""
        return {"mean": self.mean, "square": self.square}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.mean.copy_(state["mean"])
        self.square.copy_(state["square"])
