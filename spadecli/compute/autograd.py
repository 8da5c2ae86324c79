"""Helpers for hand-written backward passes."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def first_order_only(backward: Callable[..., T]) -> Callable[..., T]:
    """Decorate ``Function.backward`` to raise RuntimeError in a second derivative, whose terms would be missing.

    torch's own ``once_differentiable`` raises only if the incoming gradient itself requires a gradient; with a constant
    one, as in a gradient penalty, it silently returns a gradient without a graph.
    """

    @wraps(backward)
    def checked(ctx: Any, *gradients: Any) -> T:
        if torch.is_grad_enabled():  # only under create_graph=True
            name = type(ctx).__name__.removesuffix("Backward")
            raise RuntimeError(
                f"{name} has no second derivative: train with train.modulation=plain, or without create_graph=True"
            )
        return backward(ctx, *gradients)

    return checked
