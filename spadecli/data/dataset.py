"""Training samples from a packed file: a pure function of (seed, epoch, index), in any process."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from ..core.recipe import AUGMENT_NUMBERS, Recipe
from ..core.sizes import Size
from .edges import instance_edges
from .masks import resize_codes
from .packed import Packed
from .shrink import shrink_edges, shrink_photo

Key = tuple[int, ...]  # (epoch, index into the packed file), and for a window of the image its first row and column
Batch = dict[str, torch.Tensor]


class Pair(NamedTuple):
    """A crop of a pair: codes and channels uint8 [H,W], edges uint8 [H,W] or None, photo uint8 [H,W,3]."""

    codes: NDArray[np.uint8]
    channels: NDArray[np.uint8]
    edges: NDArray[np.uint8] | None
    photo: NDArray[np.uint8]


class TrainingSet(Dataset[Batch]):
    """Random crops and flips of packed pairs, with the noise of the latent.

    crop: (height, width) of the crops, which are reduced to model.size if that is smaller; None is model.size.

    An item has channels uint8 [H,W], edges uint8 [H,W] (if the label space has instances), photo uint8 [3,H,W] and eps
    float32 [Z]. Edges are computed after crop and flip, and before crops are reduced. Where training is on windows,
    channels and edges are those of the window, and ``at`` int64 [2] is its first row and column in the photo.
    ``augment`` float32 [AUGMENT_NUMBERS], if the recipe augments, are the numbers in [0,1) that model/augment.py works
    with. ``noise_places`` int64 [2], if the model adds pixel noise, is where an image's noise begins (see
    model/pixel_noise.py). ``from_photo`` bool [num_classes], if the discriminator mixes labels, are the classes that
    model/segmentation.py takes from the photo.
    """

    def __init__(self, path: Path, recipe: Recipe, crop: Size | None = None) -> None:
        self.packed = Packed(path)
        self.recipe, self.crop = recipe, crop or recipe.model.size
        self._channel_of = recipe.labels.code_to_channel.astype(np.uint8)

    def __getitem__(self, key: Key) -> Batch:
        """Return the sample of (epoch, index), or a window of it."""
        epoch, index, *at = key
        train = self.recipe.train
        random = np.random.default_rng((train.seed, epoch, index))
        pair = self._pair(index, self._window(random))
        eps = random.standard_normal(self.recipe.model.z_dim, dtype=np.float32)
        item: dict[str, NDArray[Any]] = {
            "channels": pair.channels,
            "photo": pair.photo.transpose(2, 0, 1),
            "eps": eps,
        }
        if pair.edges is not None:
            item["edges"] = pair.edges
        if at and train.window:
            rows, columns = (slice(i, i + n) for i, n in zip(at, train.window, strict=True))
            item |= {name: item[name][rows, columns] for name in ("channels", "edges") if name in item}
            item["at"] = np.array(at, np.int64)
        if self.recipe.discriminator.augment:
            changes = np.random.default_rng(np.random.SeedSequence((train.seed, epoch, index), spawn_key=(2,)))
            item["augment"] = changes.random(AUGMENT_NUMBERS, dtype=np.float32)
        if self.recipe.model.pixel_noise:
            places = np.random.default_rng(np.random.SeedSequence((train.seed, epoch, index), spawn_key=(3,)))
            item["noise_places"] = places.integers(0, 2**16, 2)
        if self.recipe.discriminator.mixes_labels:
            sides = np.random.default_rng(np.random.SeedSequence((train.seed, epoch, index), spawn_key=(4,)))
            item["from_photo"] = sides.random(self.recipe.labels.num_classes) < 0.5
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in item.items()}

    def centre(self, index: int) -> Pair:
        """Return the centre crop of a pair, of the model's size and never flipped."""
        h, w = self.crop
        top, left = ((loaded - side) // 2 for loaded, side in zip(self.packed.size, self.crop, strict=True))
        return self._pair(index, (slice(top, top + h), slice(left, left + w)))

    def at_size_of(self, recipe: Recipe) -> TrainingSet:
        """Return the same crops of the same pairs, reduced to the model.size of a stage's ``recipe``."""
        other = copy(self)
        other.recipe = recipe
        return other

    def channels(self, index: int) -> NDArray[np.uint8]:
        """Return the class channels of a whole packed mask, uint8 [H,W]."""
        return self._channel_of[self.packed.get(index)[0]]

    def _pair(self, index: int, window: tuple[slice, slice]) -> Pair:
        """Cut a pair, flipped if ``window`` is, and reduce it to the model's size."""
        codes, instances, photo = self.packed.get(index)
        codes, photo, edges, size = codes[window], photo[window], None, self.recipe.model.size
        if self.recipe.labels.instances and instances is not None:
            edges = instance_edges(instances[window])
        if size != self.crop:
            codes, photo = resize_codes(codes, size), shrink_photo(photo, size)
            edges = None if edges is None else shrink_edges(edges, size)
        return Pair(codes, self._channel_of[codes], edges, photo)

    def _window(self, random: np.random.Generator) -> tuple[slice, slice]:
        """Draw one crop and flip for mask, instances and photo alike."""
        (loaded_h, loaded_w), (h, w) = self.packed.size, self.crop
        top, left = int(random.integers(loaded_h - h + 1)), int(random.integers(loaded_w - w + 1))
        rows, columns = slice(top, top + h), slice(left, left + w)
        if self.recipe.data.flip and random.random() < 0.5:
            columns = slice(left + w - 1, left - 1 if left else None, -1)
        return rows, columns


def start_worker(worker: int) -> None:
    """Set up a data loader worker: one thread, and deaf to Ctrl-C and SIGTERM.

    Terminals and schedulers send these to all processes; the main one needs its workers until its step is done, and
    ends them itself.
    """
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.SIG_IGN)
    torch.set_num_threads(1)


@dataclass(frozen=True)
class StepWindows:
    """Which steps train on windows, and where these lie in the images: functions of seed and step.

    size, window: (height, width) of the images and of the windows. stride: what first rows and columns are multiples
    of. share: of the steps that train on windows.
    """

    size: tuple[int, int]
    window: tuple[int, int]
    stride: int
    share: float
    seed: int

    @classmethod
    def of(cls, recipe: Recipe) -> StepWindows | None:
        """Return those of a recipe; None if it trains on whole images."""
        train = recipe.train
        if train.window is None or not train.window_share:
            return None
        return cls(recipe.model.size, train.window, recipe.model.stride, train.window_share, train.seed)

    def places(self, step: int, batch: int) -> list[tuple[int, ...]]:
        """Return the first row and column of the window of each image of a step; empty ones for whole images."""
        random = np.random.default_rng(np.random.SeedSequence((self.seed, step), spawn_key=(1,)))
        if random.random() >= self.share:
            return [()] * batch
        most = [(s - w) // self.stride for s, w in zip(self.size, self.window, strict=True)]
        cells = random.integers(0, most, (batch, 2), endpoint=True)
        return [(int(row) * self.stride, int(column) * self.stride) for row, column in cells]


class StepSampler(Sampler[list[Key]]):
    """Yields the keys of each step's batch, from ``first_step`` to ``steps``.

    Samples form one endless stream, epoch after epoch, each epoch in its own order; step k takes the k-th ``batch`` of
    them. Training can thus resume at any step, and no sample of an epoch is dropped.
    ``share`` selects a process's share of each step's keys. windows: of the steps that train on them.
    shift: samples by which the stream is ahead of steps that were all of this batch (see core/stages.py).
    """

    def __init__(
        self,
        indices: Sequence[int],
        batch: int,
        seed: int,
        first_step: int,
        steps: int,
        share: Callable[[list[Key]], list[Key]] = list,
        windows: StepWindows | None = None,
        shift: int = 0,
    ) -> None:
        self.windows, self.shift = windows, shift
        self.indices, self.share = np.asarray(indices), share
        self.batch, self.seed, self.first_step, self.steps = batch, seed, first_step, steps

    def __len__(self) -> int:
        return self.steps - self.first_step

    def __iter__(self) -> Iterator[list[Key]]:
        orders: dict[int, NDArray[np.int64]] = {}
        for step in range(self.first_step, self.steps):
            keys: list[Key] = []
            taken = step * self.batch + self.shift
            for position in range(taken, taken + self.batch):
                epoch, place = divmod(position, len(self.indices))
                if epoch not in orders:
                    orders = {e: o for e, o in orders.items() if e == epoch - 1}
                    orders[epoch] = np.random.default_rng((self.seed, epoch)).permutation(self.indices)
                keys.append((epoch, int(orders[epoch][place])))
            if self.windows is not None:
                places = self.windows.places(step, self.batch)
                keys = [(*key, *place) for key, place in zip(keys, places, strict=True)]
            yield self.share(keys)
