"""LPIPS among the scores: from a file or from what is installed, each number with its protocol."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_backend import FakeBackend, Listener, make_card, source, write_mask
from lpips_weights import random_alexnet, random_heads
from PIL import Image
from safetensors.torch import save_file

from spadecli.cli.app import main
from spadecli.commands.render.command import RenderOptions, render_with
from spadecli.commands.score import choose
from spadecli.commands.score.command import LPIPS, ScoreOptions, plan_score, score
from spadecli.core.errors import BackendUnavailable, UserError
from spadecli.metrics.diversity import sample_distances
from spadecli.model import lpips
from spadecli.model.lpips import Lpips
from spadecli.model.perceptual import squeezenet_layers
from spadecli.store import h5

STATE = {**random_alexnet(), **random_heads()}


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScoreOptions:
    """Three samples each of three masks, the last of another size, and a file of LPIPS; nothing is installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(choose, "shipped_dir", lambda what: tmp_path / "nothing")
    monkeypatch.setattr(lpips, "PACKAGE", "no_such_package")
    for name in "abc":
        write_mask(Path(f"masks/{name}.png"))
    render_with(source(FakeBackend(make_card())), RenderOptions(samples=3, workers=1), Listener())
    for i in range(3):
        Image.open(f"renders/c_{i}.png").convert("RGB").resize((40, 48)).save(f"renders/c_{i}.png")
    save_file(STATE, "lpips.safetensors")
    return ScoreOptions(renders=Path("renders"), lpips=Path("lpips.safetensors"), device="cpu")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The authors' package, with heads alone in it; returns what is published at AlexNet's address."""
    heads = tmp_path / "site" / "lpips" / "weights" / "v0.1" / "alex.pth"
    heads.parent.mkdir(parents=True)
    torch.save(random_heads("lin{}.model.1.weight"), heads)
    published = tmp_path / "alexnet.pth"
    torch.save(random_alexnet(), published)
    published = published.rename(tmp_path / f"alexnet-{h5.file_sha256(published)[:8]}.pth")
    monkeypatch.setattr(lpips, "PACKAGE", "lpips")
    monkeypatch.setattr(lpips, "ALEXNET_URL", published.as_uri())
    monkeypatch.syspath_prepend(tmp_path / "site")
    return published


def pairs_of(name: str) -> np.ndarray:
    """The distances of the pairs of a mask's samples, each pair by itself."""
    network = Lpips(STATE)
    pictures = [np.array(Image.open(f"renders/{name}_{i}.png").convert("RGB")) for i in range(3)]
    both = (
        sample_distances(network.maps, np.stack(pair), heads=network.heads)
        for pair in itertools.combinations(pictures, 2)
    )
    return np.concatenate(list(both))


def test_it_is_the_mean_over_pairs_then_over_masks(options: ScoreOptions) -> None:
    result = score(options, Listener())
    found = result.lpips
    assert found.name == "LPIPS (AlexNet, v0.1)"
    assert (found.masks, found.pairs) == (("a", "b", "c"), 9)
    np.testing.assert_allclose(found.values, [pairs_of(name).mean() for name in "abc"], rtol=1e-5)
    assert found.mean == pytest.approx(np.mean(found.values))
    assert found.deviation == pytest.approx(np.std(found.values))
    assert found.mean > 1e-3
    with h5.open_read(result.path, "scores") as f:
        assert list(f["lpips/mask_name"].asstr()[:]) == ["a", "b", "c"]
        assert f["lpips/value"][:].tolist() == list(found.values)
        assert json.loads(f.attrs["results_json"])["lpips"]["mean"] == found.mean
        assert "diversity" not in f
    assert "9 pairs of samples of 3 masks" in result.report.read_text("utf-8")


def test_the_protocol_says_how_it_was_measured(options: ScoreOptions) -> None:
    protocol = dataclasses.asdict(score(options, Listener()).protocol)["lpips"]
    assert protocol == {
        "network": "AlexNet, ReLU 1 to 5, unit-normalised, linear heads v0.1 (Zhang et al., CVPR 2018)",
        "weights": "lpips.safetensors",
        "weights_sha256": h5.file_sha256(Path("lpips.safetensors")),
        "input": "RGB in [-1,1] (bytes / 127.5 - 1), then (x - [-0.03, -0.088, -0.188]) / [0.458, 0.448, 0.45]",
        "masks": 3,
        "samples": "3",
        "pairs": 9,
        "size": "the renders' own, not resized",
        "mean": "over the pairs of samples of a mask, then over the masks",
    }


def test_both_figures_of_diversity_stand_side_by_side(
    options: ScoreOptions, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["spade", "score", "renders", "--device", "cpu", *words])
        with pytest.raises(SystemExit) as e:
            main()
        assert not e.value.code
        return capsys.readouterr().out

    torch.manual_seed(0)
    torch.save(torch.nn.Sequential(*squeezenet_layers()[0]).state_dict(), "net.pth")
    words = ["--lpips", "lpips.safetensors", "--perceptual", "squeezenet", "--perceptual-weights", "net.pth"]
    out = run(*words)
    assert "diversity (squeezenet): 0." in out
    assert "LPIPS (AlexNet, v0.1): 1." in out
    assert "LPIPS: AlexNet, ReLU 1 to 5" in out
    found = json.loads(run(*words, "--json", "-q"))
    assert found["lpips"]["pairs"] == found["diversity"]["pairs"] == 9
    assert found["lpips"]["mean"] != found["diversity"]["mean"]
    assert found["protocol"]["lpips"]["weights_sha256"] == h5.file_sha256(Path("lpips.safetensors"))
    assert found["protocol"]["diversity"]["weights_sha256"] == h5.file_sha256(Path("net.pth"))


def test_samples_of_different_sizes_are_named(options: ScoreOptions) -> None:
    Image.new("RGB", (64, 48)).save("renders/b_1.png")
    with pytest.raises(UserError, match="samples of 1 masks cannot be compared") as e:
        score(options, Listener())
    assert e.value.problems == ("b: samples of different sizes",)


def test_what_was_asked_for_and_is_impossible_is_an_error(options: ScoreOptions) -> None:
    with pytest.raises(UserError, match=r"nowhere\.safetensors: no such file \(--lpips\)"):
        plan_score(dataclasses.replace(options, lpips=Path("nowhere.safetensors")))
    save_file(random_heads(), "heads.safetensors")
    with pytest.raises(UserError, match=r"heads\.safetensors: not LPIPS with AlexNet"):
        plan_score(dataclasses.replace(options, lpips=Path("heads.safetensors")))
    with pytest.raises(BackendUnavailable, match="linear heads of LPIPS are not installed") as e:
        plan_score(dataclasses.replace(options, lpips=Path("fetch")))
    assert "pip install --no-deps lpips" in e.value.hint
    render_with(source(), RenderOptions(samples=1, workers=1, out=Path("single")), Listener())
    with pytest.raises(UserError, match="single: no mask has two samples"):
        plan_score(dataclasses.replace(options, renders=Path("single")))


def test_what_is_installed_is_used_and_fetched_only_on_request(options: ScoreOptions, installed: Path) -> None:
    by_file = score(options, Listener()).lpips
    asked, unasked = (dataclasses.replace(options, lpips=value) for value in (Path("fetch"), None))
    for given, fetch, reason in ((unasked, True, "--lpips fetch fetches it once"), (asked, False, "would be fetched")):
        with pytest.raises(UserError, match="nothing can be measured") as e:
            plan_score(given, Listener(), fetch)
        (found,) = (problem for problem in e.value.problems if problem.startswith(LPIPS))
        assert reason in found
    assert not lpips.installed_files()[0].exists()
    assert score(asked, Listener()).lpips == by_file
    later = score(unasked, Listener())
    assert later.lpips == by_file
    assert later.protocol.lpips.weights_sha256.split(" + ") == [
        h5.file_sha256(path) for path in lpips.installed_files()
    ]


def test_without_weights_it_says_how_to_get_them(options: ScoreOptions) -> None:
    with pytest.raises(UserError, match="nothing can be measured") as e:
        plan_score(dataclasses.replace(options, lpips=None), Listener())
    assert any("give its weights with --lpips FILE, or pip install --no-deps lpips" in p for p in e.value.problems)
