from __future__ import annotations

from pathlib import Path

import pytest

from spadecli.commands.score import protocol
from spadecli.commands.score.protocol import size_counts, was_training_loss
from spadecli.weights.card import Card


@pytest.mark.parametrize(
    ("extractor", "loss", "expected"),
    [
        ("squeezenet1_1_pooled", "squeezenet", "yes"),
        ("vgg16", "vgg19", "yes"),
        ("vgg19_pooled", "vgg16", "yes"),
        ("FID Inception", "squeezenet", "no"),
        ("squeezenet1_1_pooled", "none", "no"),
        ("squeezenet1_1_pooled", None, "unknown"),
    ],
)
def test_was_training_loss(monkeypatch: pytest.MonkeyPatch, extractor: str, loss: str | None, expected: str) -> None:
    recipe = {"loss": {"perceptual_network": loss}} if loss else {}
    monkeypatch.setattr(protocol, "read_card", lambda path: Card.model_construct(recipe=recipe))
    assert was_training_loss(extractor, Path("w.safetensors")) == expected


def test_without_weights_nobody_knows() -> None:
    assert was_training_loss("squeezenet", None) == "unknown"


def test_size_counts() -> None:
    assert size_counts({(256, 512): 3, (64, 64): 1}) == {"64x64": 1, "256x512": 3}
