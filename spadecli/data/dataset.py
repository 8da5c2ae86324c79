"""Training samples from a packed file: a pure function of (seed, epoch, index), in any process."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from ..core.recipe import Recipe
from .edges import instance_edges
from .packed import Packed

Key = tuple[int, int]  # (epoch, index into the packed file)
Batch = dict[str, torch.Tensor]


class CenteredPair(NamedTuple):
    """A pair without augmentation: codes and channels uint8 [H,W], edges uint8 [H,W] or None, photo uint8 [H,W,3]."""

    codes: NDArray[np.uint8]
    channels: NDArray[np.uint8]
    edges: NDArray[np.uint8] | None
    photo: NDArray[np.uint8]


class TrainingSet(Dataset[Batch]):
    """Random crops and flips of packed pairs, with the noise of the latent.

    An item has channels uint8 [H,W], edges uint8 [H,W] (if the label space has instances), photo uint8 [3,H,W] and eps
    float32 [Z]. Edges are computed after crop and flip.
    """

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self.packed = Packed(path)
        self.recipe = recipe
        self._channel_of = recipe.labels.code_to_channel.astype(np.uint8)

    def __getitem__(self, key: Key) -> Batch:
        """Return the sample of (epoch, index)."""
        epoch, index = key
        random = np.random.default_rng((self.recipe.train.seed, epoch, index))
        codes, instances, photo = self.packed.get(index)
        window = self._window(random)
        eps = random.standard_normal(self.recipe.model.z_dim, dtype=np.float32)
        item = {
            "channels": self._channel_of[codes[window]],
            "photo": photo[window].transpose(2, 0, 1),
            "eps": eps,
        }
        if self.recipe.labels.instances and instances is not None:
            item["edges"] = instance_edges(instances[window])
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in item.items()}

    def centre(self, index: int) -> CenteredPair:
        """Return the centre crop of a pair, of the model's size and never flipped."""
        codes, instances, photo = self.packed.get(index)
        h, w = self.recipe.model.size
        top, left = (codes.shape[0] - h) // 2, (codes.shape[1] - w) // 2
        window = (slice(top, top + h), slice(left, left + w))
        edges = None
        if self.recipe.labels.instances and instances is not None:
            edges = instance_edges(instances[window])
        return CenteredPair(codes[window], self._channel_of[codes[window]], edges, photo[window])

    def channels(self, index: int) -> NDArray[np.uint8]:
        """Return the class channels of a whole packed mask, uint8 [H,W]."""
        return self._channel_of[self.packed.get(index)[0]]

    def _window(self, random: np.random.Generator) -> tuple[slice, slice]:
        """Draw one crop and flip for mask, instances and photo alike."""
        (loaded_h, loaded_w), (h, w) = self.packed.size, self.recipe.model.size
        top, left = int(random.integers(loaded_h - h + 1)), int(random.integers(loaded_w - w + 1))
        rows, columns = slice(top, top + h), slice(left, left + w)
        if self.recipe.data.flip and random.random() < 0.5:
            columns = slice(left + w - 1, left - 1 if left else None, -1)
        return rows, columns


def start_worker(worker: int) -> None:
    """Set up a data loader worker: one thread, and Ctrl-C ignored, as the main process ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


class StepSampler(Sampler[list[Key]]):
    """Yields the keys of each step's batch, from ``first_step`` to ``steps``.

    Samples form one endless stream, epoch after epoch, each epoch in its own order; step k takes the k-th ``batch`` of
    them. Training can thus resume at any step, and no sample of an epoch is dropped.
    ``share`` selects a process's share of each step's keys.
    """

    def __init__(
        self,
        indices: Sequence[int],
        batch: int,
        seed: int,
        first_step: int,
        steps: int,
        share: Callable[[list[Key]], list[Key]] = list,
    ) -> None:
        self.indices, self.share = np.asarray(indices), share
        self.batch, self.seed, self.first_step, self.steps = batch, seed, first_step, steps

    def __len__(self) -> int:
        return self.steps - self.first_step

    def __iter__(self) -> Iterator[list[Key]]:
        orders: dict[int, NDArray[np.int64]] = {}
        for step in range(self.first_step, self.steps):
            keys = []
            for position in range(step * self.batch, (step + 1) * self.batch):
                epoch, place = divmod(position, len(self.indices))
                if epoch not in orders:
                    orders = {e: o for e, o in orders.items() if e == epoch - 1}
                    orders[epoch] = np.random.default_rng((self.seed, epoch)).permutation(self.indices)
                keys.append((epoch, int(orders[epoch][place])))
            yield self.share(keys)
