"""The use of style beside the scores, and which renders of a stylized folder count."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from extractors import Tiny, save
from fake_backend import FakeBackend, Listener, make_card, write_mask
from pictures import photographs
from PIL import Image

from spadecli.commands.render.command import RenderOptions
from spadecli.commands.score import choose, style
from spadecli.commands.score.command import STYLE, ScoreOptions, score
from spadecli.commands.score.sets import renders_in, styles_of
from spadecli.commands.styles import usage
from spadecli.commands.stylize import command
from spadecli.commands.stylize.command import StylizeOptions, stylize
from spadecli.core.report import Silent
from spadecli.store import h5

NAMES = tuple("abcdef")


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScoreOptions:
    """Six masks of two shapes in the styles of two photos by a fake backend, and photos of the same six names."""
    backend = FakeBackend(make_card(latent="encoder"))
    monkeypatch.chdir(tmp_path)
    for module in (command, usage):
        monkeypatch.setattr(module, "open_backend", lambda *args, **chosen: backend)
    for module in (style, choose):
        monkeypatch.setattr(module, "read_card", lambda path: backend.card)
    Path("w.safetensors").write_bytes(b"weights")
    for i, name in enumerate(NAMES):
        write_mask(Path(f"masks/{name}.png"), value=None if i % 2 else 0)
    for name, color in (("red", (250, 20, 20)), ("blue", (20, 20, 250))):
        Image.new("RGB", (40, 40), color).save(f"{name}.png")
    render = RenderOptions(weights=Path("w.safetensors"), out=Path("stylized"), samples=2, workers=1)
    stylize(StylizeOptions(render=render, refs=("red.png", "blue.png")), Listener())
    photographs(tmp_path / "photos", NAMES, seed=2, size=(64, 64))
    monkeypatch.setattr(
        "spadecli.commands.score.command.find_weights", lambda *args: (Path("w.safetensors"), "w", "0" * 64)
    )
    monkeypatch.setattr("spadecli.commands.score.sample_diversity.perceptual_network", lambda path: None)
    monkeypatch.setattr("spadecli.commands.score.protocol.perceptual_network", lambda path: None)
    return ScoreOptions(renders=Path("stylized"), real=Path("photos"), cache=tmp_path / "cache")


@pytest.fixture
def tiny_extractor(tmp_path: Path) -> Path:
    return save(tmp_path / "tiny.pt", Tiny())


def test_first_is_one_render_of_each_mask_and_styles_are_told_apart(options: ScoreOptions) -> None:
    folder = Path("stylized")
    assert [item.relative for item in renders_in(folder, "first")] == [f"red/{name}_0.png" for name in NAMES]
    assert len(renders_in(folder, "all")) == 24
    assert styles_of(folder)["blue/a_1.png"] == "blue"


def test_use_of_style_is_measured_and_stored(options: ScoreOptions, tiny_extractor: Path) -> None:
    result = score(dataclasses.replace(options, extractor=tiny_extractor), Silent())
    found = result.as_json()["style"]
    assert found["usage"]["num_masks"] == 6
    assert 0 < found["usage"]["z_share"] < 1
    assert found["usage"]["active"] == 4
    assert found["carry"]["references"] == ["a", "c", "e"]
    assert found["carry"]["masks"] == ["b", "d", "f"]
    assert "color_of_sky" in found["carry"]
    json.dumps(result.as_json(), allow_nan=False)
    assert "variance that z explains" in (result.report or Path()).read_text()
    with h5.open_read(result.path or Path(), "scores") as f:
        assert json.loads(f.attrs["results_json"])["style"] == found
    assert result.protocol.style is not None
    assert result.protocol.style.photos == "6 of 6 from photos"


def test_a_class_that_no_mask_shows_has_no_colour(options: ScoreOptions, tiny_extractor: Path) -> None:
    for i, name in enumerate(NAMES):
        write_mask(Path(f"labels/{name}.png"), value=i % 2)
    result = score(dataclasses.replace(options, extractor=tiny_extractor, labels=Path("labels")), Silent())
    assert sorted(result.style.consistency if result.style else ()) == ["color", "encoded_back"]


def test_without_style_the_reason_is_told(options: ScoreOptions, tiny_extractor: Path, monkeypatch) -> None:
    options = dataclasses.replace(options, extractor=tiny_extractor)
    assert score(dataclasses.replace(options, style=False), Silent()).protocol.not_run[STYLE] == "--no-style"
    monkeypatch.setattr(style, "read_card", lambda path: make_card(latent="map"))
    assert "map alone" in score(options, Silent()).protocol.not_run[STYLE]
    monkeypatch.setattr("spadecli.commands.score.command.find_weights", lambda *args: (None, "w", "0" * 64))
    assert "--weights" in score(options, Silent()).protocol.not_run[STYLE]
