"""The weights that a run exports: its averages (EMA).

If the recipe asks for it, the moments of the encoder's style codes are folded in and batch-norm statistics are measured
again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.utils.data import default_collate

from ..data.dataset import StepSampler, TrainingSet
from ..weights.card import Card
from ..weights.file import save_weights
from ..weights.folding import fold_posterior
from .ema import States, averaged_networks
from .recalibration import Inputs, deviation_change, posterior_moments, recalibrate, with_statistics_of
from .sheets import photo_tensor
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
        has_encoder = trainer.encoder is not None
        self.photos = min(trainer.recipe.train.match_prior, len(indices)) if has_encoder else 0
        self._made: tuple[int, States, States] | None = None

    def states(self, step: int) -> States:
        """Return the effective weights at ``step``; what they need is measured once per step."""
        return self._measured(step)[1]

    def save(self, path: Path, card: Card, step: int) -> None:
        """Write the weights at ``step``; the card records what was measured for them."""
        states = self.states(step)
        done = {"recalibrated_on_batches": self.batches, "prior_matched_on_photographs": self.photos}
        if added := {name: number for name, number in done.items() if number}:
            card = card.model_copy(update={"training": {**card.training, **added}})
        save_weights(path, card, states["generator"], states.get("encoder"))

    def effect(self, step: int, validator: Validator | None) -> Recalibration:
        """Compare weights before and after recalibration: statistics and, given a validator, validation measures."""
        before, after = self._measured(step)
        changes = np.abs(deviation_change(before["generator"], after["generator"]) or [0.0])
        return Recalibration(
            batches=self.batches,
            median=float(np.median(changes)),
            largest=float(changes.max()),
            before=validator.measure(before) if validator else {},
            after=validator.measure(after) if validator else {},
        )

    def _measured(self, step: int) -> tuple[States, States]:
        """The weights at ``step`` before and after recalibration."""
        averages = self._trainer.ema.averages
        if not (self.batches or self.photos):
            return averages, averages
        if self._made is None or self._made[0] != step:
            before = after = self._matched(averages)
            if self.batches:
                generator, encoder = averaged_networks(self._trainer.recipe, before, self._trainer.device)
                for network in (generator, encoder):
                    if network is not None:
                        network.to(self._trainer.dtype)
                recalibrate(generator, encoder, self._inputs())
                after = with_statistics_of(before, generator)
            self._made = step, before, after
        return self._made[1:]

    def _matched(self, averages: States) -> States:
        """The averages, with the moments of the encoder's codes folded in if the recipe asks for it."""
        _, encoder = averaged_networks(self._trainer.recipe, averages, self._trainer.device)
        if not self.photos or encoder is None:
            return averages
        moments = posterior_moments(encoder.to(self._trainer.dtype), self._centres())
        generator_state, encoder_state = fold_posterior(averages["generator"], averages["encoder"], *moments)
        return {**averages, "generator": generator_state, "encoder": encoder_state}

    def _centres(self) -> Iterator[Tensor]:
        """Centre crops of training photographs, spread evenly over them, one by one."""
        for i in range(self.photos):
            index = self._indices[i * len(self._indices) // self.photos]
            photo = photo_tensor(self._dataset.centre(index).photo)
            yield photo.to(self._trainer.device, self._trainer.dtype)

    def _inputs(self) -> Iterator[Inputs]:
        train = self._trainer.recipe.train
        for keys in StepSampler(self._indices, train.batch, train.seed, 0, self.batches):
            yield self._trainer.inputs(default_collate([self._dataset[key] for key in keys]))
