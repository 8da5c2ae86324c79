"""The stages of a training run: which steps each of them has, and the recipe that these steps follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from .recipe import Recipe, StageSection
from .sizes import Size, format_size

OF_TRAIN = ("batch", "window", "window_share", "lr_g", "lr_d", "prior_share")  # what a stage may give in place of it


@dataclass(frozen=True)
class Stage:
    """Steps ``first`` to ``end`` (exclusive, from 0) of a run; a run without ``[[stage]]`` has a single one.

    number: from 1. of: the number of stages. images_before: samples that the stages before it take.
    recipe: the run's, with this stage's size as model.size, its batch as train.batch and so on, and without stages.
    """

    number: int
    of: int
    first: int
    end: int
    images_before: int
    recipe: Recipe

    @property
    def size(self) -> Size:
        """(height, width) of its images."""
        return self.recipe.model.size

    @property
    def batch(self) -> int:
        """Images per step."""
        return self.recipe.train.batch

    @property
    def shift(self) -> int:
        """What makes this stage go on in the stream of samples: step k takes those from k·batch + shift on."""
        return self.images_before - self.first * self.batch

    def images(self, step: int) -> int:
        """Return the number of samples that the run has taken after ``step`` steps, of which the last is in here."""
        return step * self.batch + self.shift

    @property
    def line(self) -> str:
        """The stage on one line."""
        name = f"stage {self.number} of {self.of}"
        return f"{name}: {format_size(self.size)}, batch {self.batch}, steps {self.first} to {self.end}"


def stages_of(recipe: Recipe, steps: int) -> tuple[Stage, ...]:
    """Divide a run of ``steps`` steps into the recipe's stages.

    Where ``steps`` are not the recipe's, because they were fitted to a time, each stage keeps its share of them, but
    has at least one.
    """
    sections = recipe.stage or (StageSection(steps=steps),)
    total = sum(section.steps for section in sections)
    first = images = 0
    stages: list[Stage] = []
    for i, (section, done) in enumerate(zip(sections, accumulate(s.steps for s in sections), strict=True)):
        end = max(first + 1, min(round(steps * done / total), steps - (len(sections) - 1 - i)))
        own = _recipe_of(section, recipe)
        stages.append(Stage(i + 1, len(sections), first, end, images, own))
        first, images = end, stages[-1].images(end)
    return tuple(stages)


def steps_in_proportion(stages: Sequence[Stage], paces: Sequence[float], seconds: float) -> int:
    """Return how many steps fit in ``seconds``: at least one for each stage, which all keep their shares.

    paces: seconds of a step in each stage.
    """
    lengths = [stage.end - stage.first for stage in stages]
    pace = sum(length * own for length, own in zip(lengths, paces, strict=True)) / sum(lengths)
    return max(len(stages), round(seconds / pace))


def _recipe_of(section: StageSection, recipe: Recipe) -> Recipe:
    train = {key: value for key in OF_TRAIN if (value := getattr(section, key)) is not None}
    depth = recipe.discriminator_depth if recipe.stage else recipe.discriminator.depth
    changes = {
        "discriminator": recipe.discriminator.model_copy(update={"depth": depth}),
        "model": recipe.model.model_copy(update={"size": section.size or recipe.model.size}),
        "train": recipe.train.model_copy(update=train),
        "stage": (),
    }
    return recipe.model_copy(update=changes)
