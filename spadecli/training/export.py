"""The weights that a run exports: its averages (EMA), with recalibrated batch-norm statistics if requested."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch.utils.data import default_collate

from ..data.dataset import StepSampler, TrainingSet
from ..weights.card import Card
from ..weights.file import save_weights
from .ema import States, averaged_networks
from .recalibration import Inputs, deviation_change, recalibrate, with_statistics_of
from .step import Trainer
from .validate import Validator

DEFAULT_BATCHES = 50


@dataclass(frozen=True)
class Recalibration:
    """The effect of recalibrating the batch-norm statistics.

    median, largest: absolute relative change of a channel's standard deviation. before, after: validation measures by
    name; empty without validation.
    """

    batches: int
    median: float
    largest: float
    before: dict[str, float]
    after: dict[str, float]

    @property
    def line(self) -> str:
        """The effect on one line."""
        text = f"batch-norm statistics measured on {self.batches} training batches"
        text += f": standard deviations changed by {self.median:.1%} (median), {self.largest:.1%} at most"
        return "; ".join([text, *(f"{name} {self.before[name]:.5g} -> {self.after[name]:.5g}" for name in self.before)])


class WeightsExporter:
    """The states of generator and encoder to export at the step that training has reached.

    batches: number of training batches that batch-norm statistics are measured on, 0 to export the running averages.
        They are always the first of the run, so that the result does not depend on interruptions.
    """

    def __init__(self, trainer: Trainer, dataset: TrainingSet, indices: Sequence[int], batches: int) -> None:
        self._trainer, self._dataset, self._indices, self.batches = trainer, dataset, indices, batches
        self._made: tuple[int, States] | None = None

    def states(self, step: int) -> States:
        """Return the effective weights at ``step``; they are recalibrated once per step."""
        averages = self._trainer.ema.averages
        if not self.batches:
            return averages
        if self._made is None or self._made[0] != step:
            generator, encoder = averaged_networks(self._trainer.recipe, averages, self._trainer.device)
            recalibrate(generator, encoder, self._inputs())
            self._made = step, with_statistics_of(averages, generator)
        return self._made[1]

    def save(self, path: Path, card: Card, step: int) -> None:
        """Write the weights at ``step``; the card records a recalibration."""
        states = self.states(step)
        if self.batches:
            card = card.model_copy(update={"training": {**card.training, "recalibrated_on_batches": self.batches}})
        save_weights(path, card, states["generator"], states.get("encoder"))

    def effect(self, step: int, validator: Validator | None) -> Recalibration:
        """Compare weights before and after recalibration: statistics and, given a validator, validation measures."""
        before, after = self._trainer.ema.averages, self.states(step)
        changes = np.abs(deviation_change(before["generator"], after["generator"]) or [0.0])
        return Recalibration(
            batches=self.batches,
            median=float(np.median(changes)),
            largest=float(changes.max()),
            before=validator.measure(before) if validator else {},
            after=validator.measure(after) if validator else {},
        )

    def _inputs(self) -> Iterator[Inputs]:
        train = self._trainer.recipe.train
        for keys in StepSampler(self._indices, train.batch, train.seed, 0, self.batches):
            yield self._trainer.inputs(default_collate([self._dataset[key] for key in keys]))
