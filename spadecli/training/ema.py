"""Exponential moving average (EMA) of effective weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..core.recipe import Recipe
from ..model.encoder import ImageEncoder
from ..model.generator import Generator
from ..weights.file import folded_state_dict

States = Mapping[str, Mapping[str, Tensor]]  # effective weights of "generator" and, if there is one, "encoder"


class EMA:
    """Averages of effective weights (spectral norm folded in) and of running statistics, in the modules' dtype.

    The decay is min(decay, (1 + t) / (10 + t)) at update t, so that the random initial weights are soon forgotten.
    """

    def __init__(self, modules: Mapping[str, nn.Module], decay: float) -> None:
        self.decay, self.updates = decay, 0
        self._modules = modules
        self.averages = {name: {k: v.clone() for k, v in folded_state_dict(m).items()} for name, m in modules.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages towards the current state of the modules."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, module in self._modules.items():
            average, state = self.averages[name], folded_state_dict(module)
            torch._foreach_lerp_([average[k] for k in state], list(state.values()), 1 - decay)

    def state_dict(self) -> dict[str, object]:
        """Return the averages and the number of updates, as tensors and plain containers."""
        return {"updates": self.updates, "averages": self.averages}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore the averages in place."""
        self.updates = int(state["updates"])  # type: ignore[call-overload]
        saved: Mapping[str, Mapping[str, Tensor]] = state["averages"]  # type: ignore[assignment]
        for name, average in self.averages.items():
            for key, value in average.items():
                value.copy_(saved[name][key])


def averaged_networks(recipe: Recipe, states: States, device: torch.device) -> tuple[Generator, ImageEncoder | None]:
    """Build generator and encoder with these weights, in evaluation mode."""
    generator = Generator(recipe.model, recipe.labels.semantic_channels, spectral=False).to(device)
    generator.load_state_dict(states["generator"], strict=False)
    encoder = None
    if "encoder" in states:
        encoder = ImageEncoder(recipe.model, spectral=False).to(device)
        encoder.load_state_dict(states["encoder"])
        encoder.eval()
    return generator.eval(), encoder
