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
from ..data.edges import instance_edges
from ..data.masks import colorize
from ..data.pixels import image_bytes, photo_values
from ..model.encoder import ImageEncoder
from ..model.generator import Generator
from ..model.semantic import SemanticMap
from ..model.trainer import Trainer
from ..store.atomic import part_file, write_bytes

ROWS = 6
SAMPLES = 4
CURVES = (
    ("generator", ("g_hinge", "feature_matching", "perceptual", "kl")),
    ("discriminator", ("d_fake", "d_real")),
    ("gradient norm", ("g_norm", "d_norm")),
)


class SampleSheet:
    """Rows of mask, photo, reconstruction (where there is an encoder) and samples from fixed z.

    The rows are training pairs, the same with the same z through the whole run. Held-out pairs are never shown:
    who watches a run tunes by what the sheets show.
    """

    def __init__(self, recipe: Recipe, dataset: TrainingSet) -> None:
        self.recipe, self._dataset = recipe, dataset
        names = dataset.packed.names
        shown = sorted(set(names) - set(recipe.data.holdout))
        rows = min(ROWS, len(shown))
        self.names = [shown[i * len(shown) // rows] for i in range(rows)]
        self._indices = [names.index(key) for key in self.names]

    def draw(self, trainer: Trainer, path: Path) -> None:
        """Render with the EMA weights and write a PNG."""
        generator, encoder = _averaged(trainer)
        picked = zip(self._indices, self.names, strict=True)
        save_grid([self._row(i, key, generator, encoder, trainer.device) for i, key in picked], path)

    @torch.inference_mode()
    def _row(
        self, index: int, key: str, generator: Generator, encoder: ImageEncoder | None, device: torch.device
    ) -> list[NDArray[np.uint8]]:
        codes, instances, photo = self._dataset.packed.get(index)
        h, w = self.recipe.model.size
        top, left = (codes.shape[0] - h) // 2, (codes.shape[1] - w) // 2
        window = (slice(top, top + h), slice(left, left + w))
        codes, photo = codes[window], photo[window]
        labels = self.recipe.labels
        edges = None
        if labels.instances and instances is not None:
            edges = torch.from_numpy(instance_edges(instances[window]))[None].to(device)
        channels = torch.from_numpy(labels.code_to_channel.astype(np.int64)[codes])[None].to(device)
        semantic = SemanticMap(channels, edges, labels.num_classes)
        latents: list[torch.Tensor | None] = [None]
        if self.recipe.model.uses_z:
            dim, seed = self.recipe.model.z_dim, self.recipe.train.seed
            draws = [sample_z(sample_seed(seed, key, i), dim) for i in range(SAMPLES)]
            latents = [torch.from_numpy(z)[None].to(device) for z in draws]
        if encoder is not None:
            latents.insert(0, encoder(torch.from_numpy(photo_values(photo))[None].to(device))[0])
        images = [image_bytes(generator(semantic, z)[0].cpu().numpy()) for z in latents]
        return [colorize(codes, labels), photo, *images]


def save_grid(rows: Sequence[Sequence[NDArray[np.uint8]]], path: Path, gap: int = 4) -> None:
    """Write equally sized images [H,W,3] as a PNG grid on white."""
    h, w = rows[0][0].shape[:2]
    columns = max(len(row) for row in rows)
    canvas = np.full((len(rows) * (h + gap) - gap, columns * (w + gap) - gap, 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            canvas[r * (h + gap) : r * (h + gap) + h, c * (w + gap) : c * (w + gap) + w] = image
    buffer = BytesIO()
    Image.fromarray(canvas).save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def plot_losses(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the curves of stats.jsonl as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 9), layout="constrained")
    FigureCanvasAgg(figure)
    steps = [row["step"] for row in rows]
    for i, (title, terms) in enumerate(CURVES):
        axes = figure.add_subplot(len(CURVES), 1, i + 1)
        for term in terms:
            values = [row.get(term, math.nan) for row in rows]
            axes.plot(steps, values, label=term, linewidth=1)
        axes.set_title(title, loc="left")
        axes.grid(alpha=0.3)
        axes.legend(loc="upper right", ncols=len(terms), frameon=False)
    axes.set_xlabel("step")
    with part_file(path) as part:
        figure.savefig(part, format="png", dpi=100)


def _averaged(trainer: Trainer) -> tuple[Generator, ImageEncoder | None]:
    """Generator and encoder with the EMA weights, in evaluation mode."""
    arch, averages = trainer.recipe.model, trainer.ema.averages
    generator = Generator(arch, trainer.recipe.labels.semantic_channels, spectral=False).to(trainer.device)
    generator.load_state_dict(averages["generator"], strict=False)
    encoder = None
    if trainer.encoder is not None:
        encoder = ImageEncoder(arch, spectral=False).to(trainer.device)
        encoder.load_state_dict(averages["encoder"])
        encoder.eval()
    return generator.eval(), encoder
