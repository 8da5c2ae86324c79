"""A backend that computes at once: images are a plain function of labels, edges and z."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from spadecli.backends.base import check_run
from spadecli.commands.render.options import Source
from spadecli.core.architecture import Architecture
from spadecli.core.errors import UserError
from spadecli.core.labelspace import LabelSpace
from spadecli.weights.card import Card

SIZE = (64, 64)


def make_card(instances: bool = False, **architecture: Any) -> Card:
    labels = LabelSpace(name="three", classes=("sky", "wall", "<b>door</b>"), instances=instances)
    arch = Architecture(**{"size": SIZE, "ngf": 1, "z_dim": 4, "latent": "noise", **architecture})
    return Card(name="fake", architecture=arch, labels=labels)


class FakeBackend:
    """Red: the labels; green: the edges; blue: the first number of z. ``calls`` keeps (M, rows of z)."""

    name = "fake"
    device = "cpu"
    fixed_size = None
    weights_sha256 = ""

    def __init__(self, card: Card | None = None, fail_after: int | None = None) -> None:
        self.card = card or make_card()
        self.calls: list[tuple[int, int]] = []
        self.edges: list[np.ndarray | None] = []
        self.encoded = 0
        self.fail_after = fail_after
        self.error: type[BaseException] = KeyboardInterrupt

    def run(self, labels, edges, z):
        check_run(self.card, labels, edges, z)
        if self.fail_after is not None and len(self.calls) >= self.fail_after:
            raise self.error
        samples = 1 if z is None else len(z) // len(labels)
        self.calls.append((len(labels), samples))
        self.edges.append(edges)
        red = np.repeat(labels / 2 - 0.5, samples, 0)
        green = np.repeat(np.zeros_like(labels) if edges is None else edges, samples, 0)
        blue = np.broadcast_to(0 if z is None else np.tanh(z[:, :1, None]), red.shape)
        return np.stack([red, green, blue], 1).astype(np.float32)

    def encode(self, photos):
        """The style: the mean of each channel, then nothing."""
        if not self.card.architecture.has_encoder:
            raise UserError("no image encoder")
        self.encoded += len(photos)
        mu = np.zeros((len(photos), self.card.architecture.z_dim), np.float32)
        mu[:, :3] = photos.mean((2, 3))
        return mu, np.full_like(mu, -2)

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def source(backend: FakeBackend | None = None, sha256: str = "a" * 64) -> Source:
    return Source(backend or FakeBackend(), Path("fake.safetensors"), sha256)


def write_mask(path: Path, size: tuple[int, int] = SIZE, value: int | None = None) -> Path:
    """A mask of three bands, or of one value."""
    codes = np.repeat(np.arange(size[0]) * 3 // size[0], size[1]).reshape(size).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(codes if value is None else np.full_like(codes, value)).save(path)
    return path


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


class Listener:
    """A report that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str, level: int = 0) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def progress(self, title: str, total: int, done: int = 0):
        from spadecli.core.report import Silent

        return Silent().progress(title, total, done)
