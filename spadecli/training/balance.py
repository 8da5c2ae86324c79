"""Weights of the generator's loss terms, set by what they do: target shares of the gradient at the image."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..core.recipe import LossSection
from ..model.losses import GENERATOR_TERMS, at_least_fp32

TERM_OF = {"adversarial": "g_hinge"}  # by the recipe's name; the others are called alike
EVERY = 10  # steps between two measurements
MEMORY = 0.9  # of the average, at a measurement


class LossBalance:
    """Balanced weights of the terms that ``loss.balance`` names.

    A term's gradient norm at the image is measured every :data:`EVERY` steps and averaged; its weight is its share of
    ``balance_norm``, divided by that average. Equal recipes in several processes stay equal: norms are means over them.
    """

    def __init__(self, loss: LossSection, device: torch.device, dtype: torch.dtype) -> None:
        total = sum(loss.balance.values())
        named = {TERM_OF.get(name, name): share / total for name, share in loss.balance.items() if share}
        off = [name for name in named if not GENERATOR_TERMS[name].weight(loss)]
        self.shares = {name: share * loss.balance_norm for name, share in named.items() if name not in off}
        self.norms = {name: torch.zeros((), device=device, dtype=dtype) for name in self.shares}
        self.measured, self._steps = 0, 0

    def weights(self) -> dict[str, Tensor]:
        """The weights of the balanced terms, on the device."""
        return {name: share / self.norms[name].clamp(min=1e-12) for name, share in self.shares.items()}

    def measure(
        self, values: Mapping[str, Tensor], image: Tensor, mean: Callable[[Tensor], Tensor] = lambda norms: norms
    ) -> None:
        """Measure, if it is time, the terms' gradients at ``image`` [N,3,H,W]; ``mean`` is that over processes."""
        due, self._steps = self._steps % EVERY == 0, self._steps + 1
        present = [name for name in self.shares if name in values]
        if not due or not present:
            return
        gradients = [torch.autograd.grad(values[name], image, retain_graph=True)[0] for name in present]
        norms = mean(torch.stack([at_least_fp32(gradient).norm() for gradient in gradients]))
        self.measured += 1
        memory = min(MEMORY, 1 - 1 / self.measured)
        for name, norm in zip(present, norms, strict=True):
            self.norms[name].lerp_(norm.to(self.norms[name].dtype), 1 - memory)

    def state_dict(self) -> dict[str, object]:
        """Tensors and plain containers."""
        return {"norms": self.norms, "measured": self.measured, "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore what :meth:`state_dict` gave."""
        norms: Mapping[str, Tensor] = state["norms"]  # type: ignore[assignment]
        for name, norm in self.norms.items():
            norm.copy_(norms[name])
        self.measured, self._steps = int(state["measured"]), int(state["steps"])  # type: ignore[call-overload]
