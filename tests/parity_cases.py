"""The cases in which every form of SPADE has to agree: label maps, latents, and the networks they are for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from conftest import shared
from networks import torch_weights
from torch import Tensor

from spadecli.core.architecture import Architecture
from spadecli.core.labelspace import LabelSpace
from spadecli.data.edges import instance_edges
from spadecli.data.masks import read_instances, read_pixels
from spadecli.model.generator import Generator
from spadecli.model.semantic import SemanticMap
from spadecli.model.spade import SPADE
from spadecli.weights.file import load_weights

CLASSES, COCO_CLASSES = 6, 183
COCO = ("000000017914", "000000203744")
# more than one cell at the start, where the map is coarsest
SMALL = {"size": (64, 64), "ngf": 2, "z_dim": 5, "hidden": 6, "latent": "noise"}
BLOCK = 5  # whose first SPADE layer stands for the layer: it sees the map at half its size
Maps = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Case:
    """at: the size of the maps where it is not the training size. options: of the architecture, beside SMALL."""

    maps: str = "blocks"
    edges: bool = True
    samples: int = 3
    at: tuple[int, int] | None = None
    options: tuple[tuple[str, Any], ...] = ()
    masks: int = 2

    def __str__(self) -> str:
        words = [self.maps, "edges" if self.edges else "", f"x{self.samples}" if self.samples > 1 else ""]
        words += ["at {}x{}".format(*self.at) if self.at else ""]
        words += [f"{name}={str(value).replace(', ', 'x')}" for name, value in self.options]
        return " ".join(word for word in words if word)

    @cached_property
    def architecture(self) -> Architecture:
        return Architecture(**{**SMALL, **dict(self.options)})

    @property
    def size(self) -> tuple[int, int]:
        return self.at or self.architecture.size

    @property
    def classes(self) -> int:
        return COCO_CLASSES if self.maps == "coco" else CLASSES

    @property
    def network(self) -> tuple[Any, ...]:
        """Cases of which this is the same have the same network."""
        return self.options, self.classes, self.edges

    @cached_property
    def labels(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Channels int64 and edges uint8, [M,H,W]."""
        channels, edges = MAPS[self.maps](self.masks, self.size)
        return channels, edges if self.edges else None

    def semantic(self, modulation: str = "plain", **options: Any) -> SemanticMap:
        channels, edges = (None if a is None else torch.from_numpy(a) for a in self.labels)
        return SemanticMap(channels, edges, self.classes, modulation, **options)

    def x(self, channels: int = 4 * SMALL["ngf"]) -> Tensor:
        """What the layer takes, float64."""
        shape = self.masks * self.samples, channels, self.size[0] // 2, self.size[1] // 2
        return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Network:
    """Fresh weights in a file, and what is made of them: see :meth:`Case.network`."""

    def __init__(self, folder: Path, case: Case) -> None:
        names = [f"c{i}" for i in range(case.classes)]
        labels = LabelSpace(name="many", classes=names, instances=case.edges)
        self.path = torch_weights(folder, case.architecture, labels)
        self.card, self.generator, self.encoder = load_weights(self.path)
        self._generators = {torch.float32: self.generator}
        self._sessions: dict[Any, onnxruntime.InferenceSession] = {}

    @property
    def layer(self) -> SPADE:
        return self.generator.blocks[BLOCK].norm_0

    def generator_in(self, dtype: torch.dtype) -> Generator:
        """To be left as it is."""
        if dtype not in self._generators:
            self._generators[dtype] = copy.deepcopy(self.generator).to(dtype)
        return self._generators[dtype]

    @torch.no_grad()
    def z(self, case: Case) -> Tensor | None:
        """float32 [M·S,Z], where there are latents."""
        random, rows = torch.Generator().manual_seed(2), case.masks * case.samples
        if self.encoder is not None:
            return self.encoder(torch.rand(rows, 3, 64, 64, generator=random) * 2 - 1)[0]
        return torch.randn(rows, case.architecture.z_dim, generator=random) if case.architecture.uses_z else None

    def session(self, key: Any, make: Callable[[], bytes]) -> onnxruntime.InferenceSession:
        """Of the graph that ``make`` writes, kept: exports take longer than everything else."""
        if key not in self._sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            self._sessions[key] = onnxruntime.InferenceSession(make(), options, ["CPUExecutionProvider"])
        return self._sessions[key]

    def forget_sessions(self) -> None:
        self._sessions.clear()


def noise(masks: int, size: tuple[int, int]) -> Maps:
    """Another label at each pixel: every pixel seen wrongly shows, and no window repeats."""
    rng = np.random.default_rng(0)
    return rng.integers(0, CLASSES, (masks, *size)), rng.integers(0, 2, (masks, *size), np.uint8)


def blocks(masks: int, size: tuple[int, int]) -> Maps:
    """Rectangles, small and large, with edges around them."""
    rng, channels = np.random.default_rng(1), np.zeros((masks, *size), np.int64)
    for mask in channels:
        for _ in range(16):
            top, left = rng.integers(0, size[0]), rng.integers(0, size[1])
            height, width = rng.integers(1, size[0] // 2), rng.integers(1, size[1] // 2)
            mask[top : top + height, left : left + width] = rng.integers(0, CLASSES)
    return channels, instance_edges(channels)


def uniform(masks: int, size: tuple[int, int]) -> Maps:
    """One label in each map: what is left is the border."""
    channels = np.broadcast_to(np.arange(masks)[:, None, None] + 2, (masks, *size))
    return channels.astype(np.int64), np.zeros((masks, *size), np.uint8)


def stripes(masks: int, size: tuple[int, int]) -> Maps:
    """One pixel wide, across and down by turns, of three labels, so that they are there at every level."""
    y, x = np.indices(size)
    channels = np.stack([(x if m % 2 else y) % 3 + m for m in range(masks)])
    return channels, np.broadcast_to((x + y) % 5 == 0, channels.shape).astype(np.uint8)


def coco(masks: int, size: tuple[int, int]) -> Maps:
    """Masks of COCO-Stuff with their instance edges, sampled down."""
    channels, edges = [], []
    for name in COCO[:masks]:
        mask = read_pixels(shared("data", "coco_sample", "train_label", f"{name}.png")).astype(np.int64)
        ids = read_instances(shared("data", "coco_sample", "train_inst", f"{name}.png"))
        step = min(mask.shape[0] // size[0], mask.shape[1] // size[1])
        small = slice(None, step * size[0], step), slice(None, step * size[1], step)
        channels.append(np.where(mask == 255, COCO_CLASSES - 1, mask)[small])
        edges.append(instance_edges(ids[small]))
    return np.stack(channels), np.stack(edges)


MAPS = {"noise": noise, "blocks": blocks, "uniform": uniform, "stripes": stripes, "coco": coco}


def options(**values: Any) -> tuple[tuple[str, Any], ...]:
    return tuple(values.items())


LAYER = {"size": (32, 64), "hidden": 5}
LAYER_CASES = [
    *(
        Case(maps, edges, samples, options=options(**LAYER, kernel=kernel))
        for maps, edges, samples, kernel in product(MAPS, (True, False), (1, 3), (1, 3, 5))
    ),
    *(
        Case(maps, edges, samples, options=options(**LAYER, norm="instance"))
        for maps, edges, samples in product(("noise", "blocks"), (True, False), (1, 3))
    ),
]
ARCHITECTURES = [
    {"kernel": 1},
    {"kernel": 5},
    {"norm": "instance"},
    {"latent": "map"},
    {"latent": "encoder"},
    {"upsampling": "more"},
    {"upsampling": "most", "size": (128, 128)},
    {"conditioning": "concat"},
    {"conditioning": "concat", "norm": "instance"},
    {"conditioning": "concat", "latent": "map"},
    {"pixel_noise": True},
    # sizes that no vector of a kernel divides, and such that fill several
    {"ngf": 5, "hidden": 7},
    {"ngf": 8, "hidden": 70, "size": (32, 32)},
]
CASES = [
    *(Case(maps, edges) for maps, edges in product(MAPS, (True, False)) if (maps, edges) != ("coco", False)),
    *(
        Case("blocks", True, 1 if values.get("latent") == "map" else 2, options=options(**values))
        for values in ARCHITECTURES
    ),
    *(
        Case("noise", False, 1, options=options(**values))
        for values in ARCHITECTURES
        if "conditioning" not in values and values.get("latent") != "encoder"
    ),
    Case(samples=1),
    Case("noise", samples=1, masks=1),
    Case(at=(32, 96)),
    Case(samples=1, at=(96, 64), options=options(latent="map")),
    # so long that a tile's halo ends within it
    Case("noise", samples=1, at=(416, 32), masks=1),
    Case("noise", samples=1, at=(416, 32), masks=1, options=options(kernel=5)),
    Case("noise", samples=1, at=(416, 32), masks=1, options=options(pixel_noise=True)),
]
