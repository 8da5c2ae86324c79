"""``spade render`` as typed, with small weights of the real kind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_backend import make_card, pixels, write_mask
from typer.testing import CliRunner

from spadecli.cli.app import app
from spadecli.core.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with masks/ and tiny.safetensors."""
    import torch

    from spadecli.model.generator import Generator
    from spadecli.weights.file import folded_state_dict, save_weights

    folder = tmp_path_factory.mktemp("render")
    for i in range(3):
        write_mask(folder / f"masks/{i}.png", value=i)
    card = make_card(ngf=2, hidden=4, norm="instance")
    torch.manual_seed(0)
    generator = Generator(card.architecture, card.labels.semantic_channels).eval()
    save_weights(folder / "tiny.safetensors", card, folded_state_dict(generator), None)
    return folder


def spade(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "spadecli", "render", *words]
    root = str(Path(__file__).parents[2])
    environment = {"PYTHONPATH": root, "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_summary_json_and_resuming(folder):
    done = spade(folder, "-w", "tiny.safetensors", "--samples", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("6 images of 3 masks in ")
    assert "gallery: renders/index.html" in done.stdout
    assert "weights: tiny.safetensors (fake), torch on" in done.stderr
    again = spade(folder, "masks/", "-w", "tiny.safetensors", "--samples", "2", "--json", "-q")
    data = json.loads(again.stdout)
    assert (data["images"], data["skipped"], data["out"]) == (0, 6, "renders")
    assert again.stderr == ""


def test_errors_and_exit_codes(folder):
    write_mask(folder / "bad/x.png", value=9)
    write_mask(folder / "bad/y.png", value=1)
    bad = spade(folder, "bad", "-w", "tiny.safetensors", "-o", "out")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert "x.png" in bad.stderr
    assert not (folder / "out").exists()
    partly = spade(folder, "bad", "-w", "tiny.safetensors", "-o", "out", "--skip-bad", "--json")
    assert partly.returncode == 4
    assert json.loads(partly.stdout)["images"] == 1
    size = spade(folder, "-w", "tiny.safetensors", "--size", "100x100")
    assert size.returncode == 2
    assert "96x96" in size.stderr
    nothing = spade(folder, "nowhere", "-w", "tiny.safetensors")
    assert nothing.returncode == 2
    assert "nowhere" in nothing.stderr


def test_batch_size_changes_nothing_with_the_real_network(folder):
    from spadecli.commands.render.command import RenderOptions, render

    one, five = (
        RenderOptions(folder / "masks", folder / "tiny.safetensors", folder / f"b{b}", samples=3, batch=b, device="cpu")
        for b in (1, 5)
    )
    render(one)
    render(five)
    for i in range(3):
        for s in range(3):
            a, b = (pixels(o.out / f"{i}_{s}.png").astype(int) for o in (one, five))
            assert np.abs(a - b).max() <= 1
    assert not np.array_equal(pixels(one.out / "0_0.png"), pixels(one.out / "0_1.png"))


def test_jpg_means_jpeg(folder):
    done = spade(folder, "masks/0.png", "-w", "tiny.safetensors", "-o", "jpg", "--format", "jpg", "--no-gallery")
    assert done.returncode == 0, done.stderr
    assert (folder / "jpg" / "0_0.jpg").read_bytes().startswith(b"\xff\xd8")


def test_form_and_precision_reach_the_backend(tmp_path, monkeypatch):
    from spadecli.commands.render import command

    opened = []

    def remember(weights, device, **how):
        opened.append(how)
        raise UserError("seen")

    monkeypatch.setattr(command, "open_backend", remember)
    for args in ([], ["--plain"], ["--precision", "bf16"], ["--tile"], ["--tile-size", "256"]):
        CliRunner().invoke(app, ["render", str(tmp_path), *args])
    assert opened == [
        {"form": "auto", "precision": "fp32", "tile": None},
        {"form": "plain", "precision": "fp32", "tile": None},
        {"form": "auto", "precision": "bf16", "tile": None},
        {"form": "auto", "precision": "fp32", "tile": "auto"},
        {"form": "auto", "precision": "fp32", "tile": 256},
    ]
