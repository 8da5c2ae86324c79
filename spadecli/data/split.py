"""The split of packed pairs into training, validation and held-out pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..core.recipe import Recipe

SHOWN = 5


@dataclass(frozen=True)
class Split:
    """Indices into the packed file, ascending; each pair is in exactly one of the three.

    training: pairs that gradients are computed on. validation: pairs measured during training, by which settings may
    be tuned. held_out: pairs kept for the final score. problems: what is wrong with the recipe's settings.
    """

    training: list[int]
    validation: list[int]
    held_out: list[int]
    problems: tuple[str, ...] = ()


def split_pairs(names: Sequence[str], recipe: Recipe) -> Split:
    """Split packed pairs as the recipe says; the result depends on their names alone.

    Validation pairs are those of ``validation.names``, or ``validation.pairs`` of the pairs that are not held out,
    spread evenly over them in packed order.
    """
    validation, held = recipe.validation, set(recipe.data.holdout)
    problems = _not_packed("data.holdout", held, names)
    left = [i for i, name in enumerate(names) if name not in held]
    taken: set[int] = set()
    if validation.every and validation.names:
        wanted = set(validation.names)
        problems += _not_packed("validation.names", wanted, names)
        if both := sorted(wanted & held):
            problems.append(f"validation.names that are also in data.holdout: {_listed(both)}")
        taken = {i for i in left if names[i] in wanted}
    elif validation.every and 2 * validation.pairs > len(left):
        most = f"at most half of the {len(left)} pairs that are not held out can be used"
        problems.append(f"validation.pairs = {validation.pairs}: {most}")
    elif validation.every:
        taken = {left[(2 * k + 1) * len(left) // (2 * validation.pairs)] for k in range(validation.pairs)}
    training = [i for i in left if i not in taken]
    if not training:
        problems.append("no pair is left for training")
    held_out = [i for i, name in enumerate(names) if name in held]
    return Split(training, sorted(taken), held_out, tuple(problems))


def _not_packed(key: str, wanted: set[str], names: Sequence[str]) -> list[str]:
    absent = sorted(wanted - set(names))
    return [f"{key} names that are not packed: {_listed(absent)}"] if absent else []


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + " ..." * (len(names) > SHOWN)
