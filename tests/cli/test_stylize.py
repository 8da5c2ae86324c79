"""``spade stylize``, ``spade styles`` and ``spade inspect --photos`` as typed, with small weights of the real kind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_backend import make_card, write_mask
from PIL import Image

from spadecli.commands.inspect.command import InspectOptions, inspect
from spadecli.core.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with masks/, photos/ of the same names, with.safetensors and without.safetensors (an encoder)."""
    import torch

    from spadecli.model.encoder import ImageEncoder
    from spadecli.model.generator import Generator
    from spadecli.weights.file import folded_state_dict, save_weights

    folder = tmp_path_factory.mktemp("stylize")
    random = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for i in range(4):
        write_mask(folder / f"masks/{i}.png")
        Image.fromarray(random.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / f"photos/{i}.png")
    torch.manual_seed(0)
    for name, latent in (("with", "encoder"), ("without", "noise")):
        card = make_card(ngf=2, hidden=4, norm="instance", latent=latent, encoder_grid=2)
        generator = Generator(card.architecture, card.labels.semantic_channels).eval()
        encoder = folded_state_dict(ImageEncoder(card.architecture)) if latent == "encoder" else None
        save_weights(folder / f"{name}.safetensors", card, folded_state_dict(generator), encoder)
    return folder


def spade(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "spadecli", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def test_stylize_and_styles(folder):
    done = spade(folder, "styles", "photos", "-w", "with.safetensors", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["encoded"] == 4
    refs = ("--ref", "styles.h5#0", "--ref", "photos/1.png", "--mix", "styles.h5#2:1,photos/3.png:2")
    done = spade(folder, "stylize", "masks", *refs, "-w", "with.safetensors", "--sheet", "sheet.jpg", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["styles"] == ["0", "1", "2=1+3=2"]
    assert found["images"] == 12
    assert found["consistency"]["code"]["num_references"] == 3
    assert (folder / "stylized/2=1+3=2/3_0.png").is_file()
    assert (folder / "sheet.jpg").is_file()


def test_weights_without_an_encoder(folder):
    done = spade(folder, "stylize", "masks", "--ref", "photos/1.png", "-w", "without.safetensors")
    assert done.returncode == 2
    assert "no image encoder (latent = noise)" in done.stderr
    assert "spade render --samples" in done.stderr


def test_inspect_measures_the_style(folder):
    done = spade(folder, "inspect", "with.safetensors", "--photos", "photos", "--masks", "masks", "--json")
    assert done.returncode == 0, done.stderr
    style = json.loads(done.stdout)["facts"]["style"]
    assert 0 < style["usage"]["z_share"] <= 1
    assert len(style["usage"]["kl"]) == 4
    assert 0 <= style["usage"]["active"] <= 4
    assert set(style["carry"]) >= {"color", "encoded_back"}
    assert not set(style["carry"]["references"]) & set(style["carry"]["masks"])


def test_inspect_says_what_it_needs(folder):
    with_encoder, without, photos = (folder / n for n in ("with.safetensors", "without.safetensors", "photos"))
    with pytest.raises(UserError, match="example masks do not fit") as e:
        inspect(InspectOptions(with_encoder, photos=photos))
    assert e.value.hint == "give --masks DIR too"
    with pytest.raises(UserError, match="no image encoder"):
        inspect(InspectOptions(without, photos=photos, masks=folder / "masks"))
    with pytest.raises(UserError, match="give --photos too"):
        inspect(InspectOptions(with_encoder, masks=folder / "masks"))
    with pytest.raises(UserError, match="is not weights"):
        inspect(InspectOptions(photos, photos=photos))
