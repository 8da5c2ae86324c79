"""What a score does when little is given: the newest renders, the manifest's masks, the shipped segmenter and set."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
from extractors import LikeInception, Tiny, save
from fake_backend import FakeBackend, Listener, make_card, source, write_mask
from pictures import photographs
from PIL import Image
from segmenters import ByColour

from spadecli.commands.render.command import RenderOptions, render_with
from spadecli.commands.score import choose, inception
from spadecli.commands.score import sample_diversity as diversity
from spadecli.commands.score.command import ScoreOptions, plan_score, score
from spadecli.commands.score.sets import newest_renders
from spadecli.core.errors import UserError
from spadecli.model.perceptual import PerceptualLoss, squeezenet_layers
from spadecli.store import h5


@pytest.fixture
def renders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two samples each of eight masks, rendered by the fake backend with a manifest."""
    monkeypatch.chdir(tmp_path)
    for i in range(8):
        write_mask(Path(f"masks/{i}.png"))
    render_with(source(FakeBackend(make_card())), RenderOptions(samples=2, workers=1), Listener())
    return Path("renders")


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ByColour:
    """A shipped segmenter of the fake backend's label space."""
    fake = ByColour(make_card().labels)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / choose.SHIPPED_SEGMENTER).write_bytes(b"weights")
    monkeypatch.setattr(choose, "shipped_dir", lambda what: tmp_path / what)
    monkeypatch.setattr(choose, "open_segmenter", lambda *args: fake)
    return fake


def ship_statistics(tmp_path: Path, fake: ByColour) -> None:
    photographs(tmp_path / "photos", [f"p{i}" for i in range(12)], seed=3, size=(64, 64))
    options = ScoreOptions(
        renders=None,
        real=tmp_path / "photos",
        segmenter="fake",
        extractor=Path("segmenter"),
        save_real=tmp_path / "weights" / choose.SHIPPED_REAL,
        cache=tmp_path / "cache",
    )
    assert score(options, Listener()).distances[0].frechet is None


def test_the_newest_folder_with_a_manifest(tmp_path: Path, renders: Path) -> None:
    assert newest_renders(tmp_path) == tmp_path / "renders"
    other = tmp_path / "later"
    other.mkdir()
    (other / "manifest.jsonl").write_text("")
    os.utime(other / "manifest.jsonl", (2e9, 2e9))
    assert newest_renders(tmp_path) == other
    with pytest.raises(UserError, match="no renders in this folder"):
        newest_renders(tmp_path / "masks")


def test_bare_score_of_fresh_renders(tmp_path: Path, renders: Path, shipped: ByColour) -> None:
    ship_statistics(tmp_path, shipped)
    told = Listener()
    result = score(ScoreOptions(renders=renders, cache=tmp_path / "cache"), told)
    assert result.segmentation.images == 8
    assert result.protocol.segmentation.masks == "masks, as the manifest says"
    (distances,) = result.distances
    assert distances.frechet_name == "Fréchet distance (by-colour features)"
    assert distances.frechet > 0
    assert "diversity between samples" in result.protocol.not_run
    assert any("photographs of other masks" in w for w in told.warnings)


def test_moved_renders_are_scored_by_their_coloured_masks(renders: Path, shipped: ByColour, tmp_path: Path) -> None:
    here = score(ScoreOptions(renders=renders, cache=tmp_path / "cache"), Listener())
    Path("masks").rename("elsewhere")
    moved = score(ScoreOptions(renders=renders, cache=tmp_path / "cache"), Listener())
    assert "the coloured masks" in moved.protocol.segmentation.masks
    assert moved.segmentation == here.segmentation


def test_a_mask_that_was_changed_since_is_named(renders: Path, shipped: ByColour, tmp_path: Path) -> None:
    mask = np.array(Image.open("masks/3.png"))
    Image.fromarray(np.ascontiguousarray(mask[::-1])).save("masks/3.png")
    changed = not np.array_equal(mask, mask[::-1])
    assert changed
    with pytest.raises(UserError) as e:
        score(ScoreOptions(renders=renders, cache=tmp_path / "cache"), Listener())
    assert "3.png: not the mask that was rendered" in e.value.problems[0]


def test_without_a_segmenter_it_says_how_to_give_one(
    renders: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(choose, "shipped_dir", lambda what: tmp_path / "nothing")
    with pytest.raises(UserError, match="nothing can be measured with what is here") as e:
        plan_score(ScoreOptions(renders=renders), Listener())
    assert any("give one with --segmenter" in p for p in e.value.problems)
    assert any("give them with --real PHOTOS" in p for p in e.value.problems)


def test_other_classes_than_the_shipped_segmenters_are_left_unmeasured(
    renders: Path, shipped: ByColour, tmp_path: Path
) -> None:
    shipped.labels = ByColour().labels
    photographs(tmp_path / "photos", [str(i) for i in range(8)], size=(64, 64))
    extractor = save(tmp_path / "tiny.pt", Tiny())
    options = ScoreOptions(renders=renders, real=tmp_path / "photos", extractor=extractor, cache=tmp_path / "cache")
    result = score(options, Listener())
    assert result.segmentation is None
    assert "the shipped segmenter knows three, these masks are" in result.protocol.not_run["mIoU, pixel accuracy"]


def test_saved_statistics_give_the_distance_of_the_photographs(tmp_path: Path) -> None:
    names = [f"{i:02}" for i in range(40)]
    options = ScoreOptions(
        renders=photographs(tmp_path / "renders", names[:30], seed=1),
        real=photographs(tmp_path / "photos", names, seed=2),
        extractor=save(tmp_path / "tiny.pt", Tiny()),
        cache=tmp_path / "cache",
        save_real=tmp_path / "real.h5",
    )
    from_photos = score(options, Listener())
    saved = dataclasses.replace(options, real=tmp_path / "real.h5", save_real=None)
    from_file = score(saved, Listener())
    assert from_file.distances[0].frechet == pytest.approx(from_photos.distances[0].frechet, rel=1e-6)
    assert from_file.distances[0].kernel is None  # more photographs than dimensions: statistics alone
    assert (from_file.protocol.distances[0].real_count, from_file.protocol.distances[0].paired) == (40, None)
    with h5.open_read(tmp_path / "real.h5", "features") as f:
        assert int(f["stats/n"][()]) == 40
        assert f["stats/sigma"].dtype == np.float64
        assert "feature" not in f
    few = dataclasses.replace(options, only=tuple(names[:12]))
    a = score(few, Listener()).distances[0]
    b = score(dataclasses.replace(saved, only=tuple(names[:12])), Listener()).distances[0]
    assert (b.frechet, b.kernel, b.prdc) == (pytest.approx(a.frechet, rel=1e-9), a.kernel, a.prdc)
    with pytest.raises(UserError, match="statistics of tiny"):
        score(dataclasses.replace(saved, extractor=save(tmp_path / "like.pt", LikeInception())), Listener())
    with pytest.raises(UserError, match="statistics at"):
        score(dataclasses.replace(saved, size=(12, 12)), Listener())


def test_the_inception_is_fetched_once_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = save(tmp_path / "published.pt", LikeInception())
    monkeypatch.setattr(inception, "URL", published.as_uri())
    cache = tmp_path / "cache"
    path = inception.find_inception(cache, True, Listener())
    assert path.read_bytes() == published.read_bytes()
    published.unlink()
    assert inception.find_inception(cache, True, Listener()) == path
    path.write_bytes(b"something else")
    with pytest.raises(UserError, match="changed since its first use"):
        inception.find_inception(cache, True, Listener())


def test_an_asked_for_protocol_says_what_it_could_not_run(tmp_path: Path) -> None:
    names = [f"{i}" for i in range(8)]
    options = ScoreOptions(
        renders=photographs(tmp_path / "renders", names, seed=1),
        real=photographs(tmp_path / "photos", names, seed=2, size=(60, 50)),
        extractor=save(tmp_path / "tiny.pt", Tiny()),
        cache=tmp_path / "cache",
    )
    paper = score(dataclasses.replace(options, protocol="spade-paper"), Listener()).protocol
    assert "FID needs --inception" in paper.not_run["FID"]
    assert any("pytorch-fid" in fact for fact in paper.facts)
    assert paper.uncertain
    clean = score(dataclasses.replace(options, protocol="clean"), Listener()).protocol.distances[0]
    assert clean.size == (299, 299)
    assert "not rounded" in clean.resize
    with pytest.raises(UserError, match="fixes the size"):
        plan_score(dataclasses.replace(options, protocol="clean", size=(8, 8)))


def test_diversity_of_samples(renders: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    torch.manual_seed(0)
    layers, _ = squeezenet_layers()
    state = torch.nn.Sequential(*layers).state_dict()
    torch.save({f"features.{k}": v for k, v in state.items()}, tmp_path / "net.pth")
    options = ScoreOptions(renders=renders, perceptual="squeezenet", perceptual_weights=tmp_path / "net.pth")
    monkeypatch.setattr(choose, "shipped_dir", lambda what: tmp_path / "nothing")
    result = score(options, Listener())
    assert len(result.diversity.masks) == 8
    assert result.diversity.mean == pytest.approx(np.mean(result.diversity.values))
    assert "LPIPS" not in result.diversity.name
    pictures = np.stack([np.array(Image.open(renders / f"0_{i}.png").convert("RGB")) for i in range(2)])
    network = PerceptualLoss("squeezenet", state)
    expected = float(diversity.sample_distances(network.maps, pictures).mean())
    assert result.diversity.values[0] == pytest.approx(expected, rel=1e-5)
    with h5.open_read(result.path, "scores") as f:
        assert list(f["diversity/mask_name"].asstr()[:]) == list(result.diversity.masks)
    with pytest.raises(UserError, match="not the vgg16 network"):
        plan_score(dataclasses.replace(options, perceptual="vgg16"), Listener())
    with pytest.raises(UserError, match="no mask has two samples"):
        plan_score(dataclasses.replace(options, renders=photographs(tmp_path / "single", ["a", "b"])), Listener())
