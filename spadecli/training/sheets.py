"""Pictures of a run: sample sheets and loss curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..core.recipe import Recipe
from ..core.seeds import sample_seed, sample_z
from ..data.dataset import TrainingSet
from ..data.masks import colorize
from ..data.pixels import image_bytes, photo_values
from ..data.split import split_pairs
from ..model.encoder import ImageEncoder
from ..model.generator import Generator
from ..model.losses import DISCRIMINATOR_TERMS, GENERATOR_TERMS
from ..model.semantic import SemanticMap
from ..store.atomic import part_file, write_bytes

ROWS = 6
SAMPLES = 4
GAP = 4  # pixels between images
CURVES = (
    ("generator", tuple(GENERATOR_TERMS)),
    ("discriminator", DISCRIMINATOR_TERMS),
    ("gradient norm", ("g_norm", "d_norm")),
)


class SampleSheet:
    """Rows of mask, photo, reconstruction (with an encoder) and samples from fixed z.

    The rows are pairs of ``indices`` (into the packed file; default: the training pairs), the same ones with the same z
    throughout the run. Pairs of data.holdout are never shown, as people tune settings by what they see on the sheets.
    """

    def __init__(self, recipe: Recipe, dataset: TrainingSet, indices: Sequence[int] | None = None) -> None:
        self.recipe, self._dataset = recipe, dataset
        names = dataset.packed.names
        shown = sorted(split_pairs(names, recipe).training if indices is None else indices, key=lambda i: names[i])
        rows = min(ROWS, len(shown))
        self._indices = [shown[i * len(shown) // rows] for i in range(rows)]
        self.names = [names[i] for i in self._indices]

    def draw(self, generator: Generator, encoder: ImageEncoder | None, path: Path) -> float | None:
        """Render with these networks and write a PNG.

        Returns how much the samples of a mask differ: the standard deviation over z of each pixel and channel, for
        values in [-1,1], averaged over all of them; None if the networks use no z.
        """
        device = next(generator.parameters()).device
        rows, spreads = [], []
        for index, key in zip(self._indices, self.names, strict=True):
            row, spread = self._row(index, key, generator, encoder, device)
            rows.append(row)
            spreads.append(spread)
        save_grid(rows, path)
        return float(np.mean(spreads)) if self.recipe.model.uses_z else None

    @torch.inference_mode()
    def _row(
        self, index: int, key: str, generator: Generator, encoder: ImageEncoder | None, device: torch.device
    ) -> tuple[list[NDArray[np.uint8]], float]:
        pair = self._dataset.centre(index)
        labels = self.recipe.labels
        edges = torch.from_numpy(pair.edges)[None].to(device) if pair.edges is not None else None
        channels = torch.from_numpy(pair.channels.astype(np.int64))[None].to(device)
        semantic = SemanticMap(channels, edges, labels.num_classes)
        latents: list[torch.Tensor | None] = [None]
        if self.recipe.model.uses_z:
            latents = [z[None].to(device) for z in fixed_z(self.recipe, key, SAMPLES)]
        samples = torch.cat([generator(semantic, z) for z in latents])
        spread = float(samples.std(0, correction=0).mean())
        images = [*samples]
        if encoder is not None:
            images.insert(0, generator(semantic, encoder(photo_tensor(pair.photo).to(device))[0])[0])
        pictures = [image_bytes(image.cpu().numpy()) for image in images]
        return [colorize(pair.codes, labels), pair.photo, *pictures], spread


def fixed_z(recipe: Recipe, key: str, samples: int) -> torch.Tensor:
    """Return z of the pair called ``key``, by the seed rule with the recipe's seed: float32 [samples, Z]."""
    seeds = [sample_seed(recipe.train.seed, key, i) for i in range(samples)]
    return torch.from_numpy(np.stack([sample_z(seed, recipe.model.z_dim) for seed in seeds]))


def photo_tensor(photo: NDArray[np.uint8]) -> torch.Tensor:
    """Convert a photo uint8 [H,W,3] to the encoder's input: float32 [1,3,H,W] in [-1,1]."""
    return torch.from_numpy(photo_values(photo))[None]


def save_grid(rows: Sequence[Sequence[NDArray[np.uint8]]], path: Path) -> None:
    """Write equally sized images [H,W,3] as a PNG grid on white."""
    h, w = rows[0][0].shape[:2]
    columns = max(len(row) for row in rows)
    canvas = np.full((len(rows) * (h + GAP) - GAP, columns * (w + GAP) - GAP, 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            canvas[r * (h + GAP) : r * (h + GAP) + h, c * (w + GAP) : c * (w + GAP) + w] = image
    buffer = BytesIO()
    Image.fromarray(canvas).save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def plot_losses(rows: Sequence[dict[str, Any]], path: Path, validation: Sequence[dict[str, Any]] = ()) -> None:
    """Plot the rows of stats.jsonl, and the distances in the rows of validation.jsonl, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measured = [row for row in validation if row.get("distance") is not None]
    panels = len(CURVES) + bool(measured)
    figure = Figure(figsize=(10, 3 * panels), layout="constrained")
    FigureCanvasAgg(figure)
    steps = [row["step"] for row in rows]
    for i, (title, terms) in enumerate(CURVES):
        axes = figure.add_subplot(panels, 1, i + 1)
        for term in terms:
            values = [row.get(term, math.nan) for row in rows]
            axes.plot(steps, values, label=term, linewidth=1)
        axes.set_title(title, loc="left")
        axes.grid(alpha=0.3)
        axes.legend(loc="upper right", ncols=len(terms), frameon=False)
    if measured:
        axes = figure.add_subplot(panels, 1, panels, sharex=axes)
        axes.plot([row["step"] for row in measured], [row["distance"] for row in measured], marker="o", linewidth=1)
        axes.set_title(f"validation: {measured[-1]['measure']}", loc="left")
        axes.grid(alpha=0.3)
    axes.set_xlabel("step")
    with part_file(path) as part:
        figure.savefig(part, format="png", dpi=100)
