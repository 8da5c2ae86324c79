from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import shared
from extractors import LikeInception, LikeInceptionWithLayers, NanOnBlack, NotFeatures, Tiny, save
from pictures import photographs
from PIL import Image

from spadecli.core.errors import UserError
from spadecli.core.report import Silent
from spadecli.metrics import extractors
from spadecli.metrics.extractors import open_extractor
from spadecli.metrics.features import FeatureReader

NAMES = [f"{i:02}" for i in range(11)]
SIZE = (24, 32)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return save(tmp_path / "tiny.torchscript.pt", Tiny())


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    return sorted(photographs(tmp_path / "photos", NAMES).iterdir())


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call of an extractor was given."""
    counts: list[int] = []
    run = extractors._features

    def counted(module, pictures, inception, device):
        counts.append(len(pictures))
        return run(module, pictures, inception, device)

    monkeypatch.setattr(extractors, "_features", counted)
    return counts


def test_features_are_those_of_the_pictures(tiny: Path, photos: list[Path], tmp_path: Path) -> None:
    extractor = open_extractor(tiny)
    assert (extractor.name, extractor.dimensions, extractor.inception) == ("tiny", 18, False)
    assert extractor.sha256 == hashlib.sha256(tiny.read_bytes()).hexdigest()
    found = FeatureReader(extractor, SIZE, tmp_path / "cache").read(photos, Silent())
    means = np.stack([np.asarray(Image.open(p)).mean((0, 1)) / 255 for p in photos])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, :3], means, rtol=1e-5)


def test_batch_size_changes_nothing(tiny: Path, photos: list[Path], tmp_path: Path) -> None:
    extractor = open_extractor(tiny)
    found = [
        FeatureReader(extractor, SIZE, tmp_path / f"cache{batch}", batch).read(photos, Silent()) for batch in (1, 4, 32)
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)
    np.testing.assert_allclose(found[0], found[2], rtol=1e-6)


def test_a_second_run_computes_nothing(tiny: Path, photos: list[Path], tmp_path: Path, calls: list[int]) -> None:
    first = FeatureReader(open_extractor(tiny), SIZE, tmp_path / "cache", 4).read(photos, Silent())
    assert calls == [2, 4, 4, 3]  # the probe, then three batches
    calls.clear()
    again = FeatureReader(open_extractor(tiny), SIZE, tmp_path / "cache", 4).read(photos[::-1], Silent())
    assert calls == [2]
    np.testing.assert_array_equal(again, first[::-1])


def test_the_cache_knows_pictures_by_content(tiny: Path, photos: list[Path], tmp_path: Path, calls: list[int]) -> None:
    extractor = open_extractor(tiny)
    FeatureReader(extractor, SIZE, tmp_path / "cache").read(photos, Silent())
    photos[0].rename(tmp_path / "moved.png")
    Image.new("RGB", SIZE[::-1], (9, 9, 9)).save(photos[1])
    calls.clear()
    rows = FeatureReader(extractor, SIZE, tmp_path / "cache").read([tmp_path / "moved.png", *photos[1:]], Silent())
    assert calls == [1]  # the changed one alone
    np.testing.assert_allclose(rows[1, :3], 9 / 255, rtol=1e-6)


def test_another_size_is_computed_anew(tiny: Path, photos: list[Path], tmp_path: Path, calls: list[int]) -> None:
    extractor = open_extractor(tiny)
    FeatureReader(extractor, SIZE, tmp_path / "cache").read(photos, Silent())
    calls.clear()
    FeatureReader(extractor, (12, 16), tmp_path / "cache").read(photos, Silent())
    assert sum(calls) == len(photos)


def test_copies_are_computed_once(tiny: Path, photos: list[Path], tmp_path: Path, calls: list[int]) -> None:
    extractor = open_extractor(tiny)
    calls.clear()
    rows = FeatureReader(extractor, SIZE, tmp_path / "cache").read([photos[0]] * 3, Silent())
    assert calls == [1]
    assert rows.shape == (3, 18)
    np.testing.assert_array_equal(rows[0], rows[2])


def test_every_bad_picture_is_named_and_the_good_ones_are_kept(
    photos: list[Path], tmp_path: Path, calls: list[int]
) -> None:
    extractor = open_extractor(save(tmp_path / "nan.pt", NanOnBlack()))
    Image.new("RGB", SIZE[::-1]).save(photos[2])
    photos[5].write_bytes(b"")
    photos[6].write_bytes(photos[7].read_bytes()[:200])
    reader = FeatureReader(extractor, SIZE, tmp_path / "cache", 4)
    with pytest.raises(UserError, match="3 of 11 pictures cannot be scored") as e:
        reader.read(photos, Silent())
    assert "\n".join(e.value.problems).count(".png: ") == 3
    for bad in (photos[2], photos[5], photos[6]):
        assert any(p.startswith(f"{bad}: ") for p in e.value.problems)
    calls.clear()
    good = [p for i, p in enumerate(photos) if i not in (2, 5, 6)]
    assert len(FeatureReader(extractor, SIZE, tmp_path / "cache").read(good, Silent())) == 8
    assert calls == []


def test_only_the_inception_is_called_so(tmp_path: Path, tiny: Path) -> None:
    inception = open_extractor(save(tmp_path / "inception.pt", LikeInception()), inception=True)
    assert (inception.frechet_name, inception.kernel_name, inception.dimensions) == ("FID", "KID", 2048)
    plain = open_extractor(tiny)
    assert (plain.frechet_name, plain.kernel_name) == ("Fréchet distance (tiny)", "kernel distance (tiny)")
    with pytest.raises(UserError, match=r"tiny.torchscript.pt: not the FID Inception: .* no argument return_features"):
        open_extractor(tiny, inception=True)
    with pytest.raises(UserError, match="64 features instead of 2048"):
        open_extractor(save(tmp_path / "small.pt", LikeInception(64)), inception=True)


def test_bad_extractors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such extractor file"):
        open_extractor(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("not a network")
    with pytest.raises(UserError, match=r"text.pt: not a TorchScript file"):
        open_extractor(tmp_path / "text.pt")
    torch.save({"a": torch.zeros(1)}, tmp_path / "state.pt")
    with pytest.raises(UserError, match=r"state.pt: not a TorchScript file"):
        open_extractor(tmp_path / "state.pt")
    with pytest.raises(UserError, match=r"expected features \[2,D\]"):
        open_extractor(save(tmp_path / "picture.pt", NotFeatures()))
    with pytest.raises(UserError, match="device 'moon': expected"):
        open_extractor(save(tmp_path / "tiny.pt", Tiny()), device="moon")


def test_squeezenet_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    path = shared("data", "weights", "squeezenet1_1_pooled.torchscript.pt")
    photos = sorted(shared("data", "facades", "train", "photos").iterdir())[:5]
    extractor = open_extractor(path, device="cpu")
    one = FeatureReader(extractor, (256, 256), tmp_path / "one", 1).read(photos, Silent())
    all_ = FeatureReader(extractor, (256, 256), tmp_path / "all", 8).read(photos, Silent())
    assert one.shape == (5, 512)
    np.testing.assert_allclose(one, all_, rtol=1e-4, atol=1e-4)


def test_clean_resizing_is_unrounded_and_outside_the_inception(tmp_path: Path, photos: list[Path]) -> None:
    """As clean-fid does it: Pillow's bicubic on each channel in float32, then the layers on (x - 128) / 128."""
    network = open_extractor(save(tmp_path / "i.pt", LikeInceptionWithLayers()), inception=True)
    found = FeatureReader(network, (299, 299), tmp_path / "cache", resize="clean").read(photos, Silent())
    for path, row in zip(photos, found, strict=True):
        pixels = np.array(Image.open(path).convert("RGB")).astype(np.float32)
        resized = np.stack(
            [np.array(Image.fromarray(pixels[..., c]).resize((299, 299), Image.Resampling.BICUBIC)) for c in range(3)]
        )
        assert row[-1] == pytest.approx(((resized - 128) / 128).mean(dtype=np.float64), rel=1e-4)
    rounded = FeatureReader(network, (299, 299), tmp_path / "cache").read(photos, Silent())
    assert (rounded != found).any()  # and the two are not mixed up in the cache
    lacking = open_extractor(save(tmp_path / "j.pt", LikeInception()), inception=True)
    with pytest.raises(UserError, match="no submodule layers"):
        FeatureReader(lacking, (299, 299), tmp_path / "cache", resize="clean").read(photos, Silent())
