"""Segmentation scores through ``score``: pairing, resizing, ignore and absent rules, what is stored and drawn."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from extractors import NanOnBlack, save
from PIL import Image
from segmenters import SPACE, ByColour, masks_and_renders

from spadecli.commands.score import choose
from spadecli.commands.score.command import ScoreOptions, ScoreResult, plan_score, score
from spadecli.core.errors import UserError
from spadecli.core.labelspace import LabelSpace
from spadecli.core.report import Silent
from spadecli.segmenter.predictions import FolderPredictions
from spadecli.store import h5

NAMES = ("a", "b", "sub_c", "d")


@pytest.fixture
def segmenter(monkeypatch: pytest.MonkeyPatch) -> ByColour:
    fake = ByColour()
    monkeypatch.setattr(choose, "open_segmenter", lambda *args: fake)
    return fake


@pytest.fixture
def options(tmp_path: Path, segmenter: ByColour) -> ScoreOptions:
    masks_and_renders(tmp_path, NAMES)
    return ScoreOptions(
        renders=tmp_path / "renders", labels=tmp_path / "masks", segmenter="fake", cache=tmp_path / "cache"
    )


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str, level: int = 0) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def run(options: ScoreOptions, **changes: object) -> ScoreResult:
    return score(dataclasses.replace(options, **changes), Notes())


def expected(folder: Path, names: tuple[str, ...], pictures: str = "renders") -> tuple[float, float]:
    """Mean IoU and accuracy by sets of pixels, from the files themselves."""
    channel_of = {255: 0, 1: 1, 2: 2, 5: 3}
    truth, seen = [], []
    for name in names:
        mask = np.vectorize(channel_of.get)(np.array(Image.open(folder / "masks" / f"{name}.png")))
        picture = np.array(Image.open(folder / pictures / f"{name}.png"))
        truth.append(mask.ravel())
        seen.append(ByColour().predict(picture[None])[0].ravel())
    t, s = np.concatenate(truth), np.concatenate(seen)
    t, s = t[t != 0], s[t != 0]
    iou = [((t == k) & (s == k)).sum() / ((t == k) | (s == k)).sum() for k in (1, 2)]
    return float(np.mean(iou)), float((t == s).mean())


def test_scores_are_those_of_the_files(options: ScoreOptions, tmp_path: Path) -> None:
    found = run(options).segmentation
    assert (found.mean_iou, found.accuracy) == pytest.approx(expected(tmp_path, NAMES), rel=1e-12)
    assert [c.name for c in found.classes] == ["wall", "window", "door"]
    assert [c.counted for c in found.classes] == [True, True, False]
    assert found.classes[2].pixels == 0
    assert found.photos is None


def test_photographs_of_the_masks_are_the_ceiling(options: ScoreOptions, tmp_path: Path) -> None:
    extractor = save(tmp_path / "tiny.pt", NanOnBlack())
    found = run(options, real=tmp_path / "photos", extractor=extractor).segmentation
    ceiling = expected(tmp_path, NAMES, "photos")
    assert (found.photos.mean_iou, found.photos.accuracy) == pytest.approx(ceiling, rel=1e-12)
    assert found.photos.mean_iou > found.mean_iou
    assert all(c.photo_iou is not None for c in found.classes[:2])


class Trust:
    """The part of a segmenter's card that says how far it can be trusted."""

    miou_real, miou_majority, miou_color_position = 0.6, 0.1, 0.3

    def __init__(self, beats_baselines: bool) -> None:
        self.beats_baselines = beats_baselines


def test_a_ratio_to_the_ceiling_is_quoted_where_the_segmenter_can_be_trusted(
    options: ScoreOptions, segmenter: ByColour, tmp_path: Path
) -> None:
    extractor = save(tmp_path / "tiny.pt", NanOnBlack())
    real = {"real": tmp_path / "photos", "extractor": extractor}
    assert run(options, **real).segmentation.ratio is None
    assert "not known" in run(options, **real).protocol.segmentation.trust
    segmenter.card = Trust(False)
    poor = run(options, **real)
    assert poor.segmentation.ratio is None
    assert "does not beat both by 0.15" in poor.protocol.segmentation.trust
    segmenter.card = Trust(True)
    good = run(options, **real)
    assert good.segmentation.ratio == pytest.approx(good.segmentation.mean_iou / good.segmentation.photos.mean_iou)
    assert "60.0% on photographs it never saw (majority class 10.0%" in good.protocol.segmentation.trust


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_the_batch_changes_nothing(options: ScoreOptions, batch: int) -> None:
    assert run(options, batch=batch).segmentation == run(options).segmentation


def test_absent_rules_reach_the_mean(options: ScoreOptions) -> None:
    left_out, counted = (run(options, absent=rule).segmentation.mean_iou for rule in ("left-out", "if-predicted"))
    assert counted == pytest.approx(left_out * 2 / 3)  # the door is predicted and in no mask
    assert "count as 0 where they are predicted" in run(options, absent="if-predicted").protocol.segmentation.absent


def test_masks_take_the_pictures_size_or_the_other_way_round(options: ScoreOptions, tmp_path: Path) -> None:
    for path in (tmp_path / "masks").iterdir():
        mask = Image.open(path)
        mask.resize((mask.width * 2, mask.height * 2), Image.Resampling.NEAREST).save(path)
    small, large = run(options), run(options, label_resize="to-mask")
    assert small.segmentation.mean_iou == pytest.approx(large.segmentation.mean_iou)
    pixels = [sum(c.pixels for c in r.segmentation.classes) for r in (small, large)]
    assert pixels[1] == 4 * pixels[0]
    assert large.protocol.segmentation.label_resize == "predictions to the mask's size, nearest"


def test_renders_of_several_sizes_are_each_measured_at_their_own(options: ScoreOptions, tmp_path: Path) -> None:
    masks_and_renders(tmp_path / "other", ("e",), size=(30, 20), seed=9)
    for folder in ("renders", "masks"):
        shutil.copy(tmp_path / "other" / folder / "e.png", tmp_path / folder / "e.png")
    assert run(options).segmentation.mean_iou == pytest.approx(expected(tmp_path, (*NAMES, "e"))[0], rel=1e-12)


def test_grey_and_transparent_renders_are_read_as_colour(options: ScoreOptions, tmp_path: Path) -> None:
    Image.new("L", (32, 24), 100).save(tmp_path / "renders/a.png")
    Image.new("RGBA", (32, 24), (10, 20, 30, 128)).save(tmp_path / "renders/b.png")
    assert run(options).segmentation.images == 4


def test_one_render_is_enough_for_iou(options: ScoreOptions, tmp_path: Path) -> None:
    found = run(options, only=("a",))
    assert found.segmentation.mean_iou == pytest.approx(expected(tmp_path, ("a",))[0], rel=1e-12)


def test_counts_are_stored(options: ScoreOptions) -> None:
    result = run(options)
    with h5.open_read(result.path, "scores") as f:
        confusion, outside = f["confusion"][:], f["outside"][:]
        names = list(f["images/name"].asstr()[:])
        shared, union = f["images/intersection"][:], f["images/union"][:]
        classes = list(f["class"].asstr()[:])
        stored = json.loads(f.attrs["results_json"])["segmentation"]
        hashes = dict(zip(f["name"].asstr()[:], f["sha256"].asstr()[:], strict=True))
    assert confusion.dtype == np.int64
    assert confusion.shape == (4, 4)
    assert (confusion[0] == 0).all()  # void is ignored
    assert outside.sum() == 0
    assert (shared.sum(0) == np.diagonal(confusion)).all()
    assert (union.sum(0) == confusion.sum(0) + confusion.sum(1) - np.diagonal(confusion)).all()
    assert (names, classes) == (sorted(NAMES), [c.name for c in SPACE.classes])
    assert stored["mean_iou"] == result.segmentation.mean_iou
    assert hashes[str(options.renders / "a.png")] == h5.file_sha256(options.renders / "a.png")


def test_predictions_by_name(options: ScoreOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    of_picture = {n: ByColour().predict(np.array(Image.open(tmp_path / f"renders/{n}.png"))[None])[0] for n in NAMES}
    expected_scores = run(options).segmentation
    (tmp_path / "maps").mkdir()
    for name, channels in of_picture.items():
        Image.fromarray(SPACE.channel_to_code[channels]).save(tmp_path / "maps" / f"{name}.png")
    monkeypatch.setattr(choose, "open_segmenter", lambda *args: FolderPredictions(tmp_path / "maps", SPACE))
    found = run(options).segmentation
    assert (found.mean_iou, found.classes) == (expected_scores.mean_iou, expected_scores.classes)


def test_missing_label_maps_are_told_before_anything_is_measured(
    options: ScoreOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "maps").mkdir()
    Image.new("L", (32, 24)).save(tmp_path / "maps" / f"{NAMES[0]}.png")
    monkeypatch.setattr(choose, "open_segmenter", lambda *args: FolderPredictions(tmp_path / "maps", SPACE))
    with pytest.raises(UserError, match=f"for {len(NAMES) - 1} of {len(NAMES)} pictures"):
        plan_score(options, Notes())


def test_a_segmenter_with_other_classes(options: ScoreOptions, segmenter: ByColour) -> None:
    segmenter.labels = LabelSpace.model_validate({"name": "street", "classes": ["wall", "road", "void"]})
    ours = LabelSpace.model_validate({**SPACE.model_dump()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choose, "_label_space", lambda options, weights: ours)
        with pytest.raises(UserError, match=r"predicts other classes .street. than the masks have .three.") as e:
            plan_score(options, Notes())
    assert e.value.problems == (
        "window: in the masks, not in the segmenter",
        "door: in the masks, not in the segmenter",
        "road: in the segmenter, not in the masks",
    )
    assert "--mapping" in e.value.hint


def test_the_order_of_the_segmenters_classes_does_not_matter(options: ScoreOptions, segmenter: ByColour) -> None:
    before = run(options).segmentation
    shuffled = SPACE.model_dump()
    shuffled["classes"] = shuffled["classes"][::-1]
    segmenter.labels = LabelSpace.model_validate(shuffled)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choose, "_label_space", lambda options, weights: SPACE)
        assert run(options).segmentation == before


def test_bad_input_is_listed(options: ScoreOptions, tmp_path: Path) -> None:
    (tmp_path / "masks/a.png").unlink()
    (tmp_path / "masks/b.png").unlink()
    with pytest.raises(UserError, match="2 of 4 renders have no mask of their name") as e:
        plan_score(options, Notes())
    assert e.value.problems == ("a", "b")
    masks_and_renders(tmp_path, NAMES)
    Image.fromarray(np.full((24, 32), 77, np.uint8)).save(tmp_path / "masks/a.png")
    (tmp_path / "renders/d.png").write_bytes((tmp_path / "renders/d.png").read_bytes()[:200])
    with pytest.raises(UserError) as e:
        run(options)
    assert "2 of 4 pictures cannot be measured" in str(e.value) or "cannot be read" in str(e.value)
    with pytest.raises(UserError, match="nothing says which masks"):
        plan_score(dataclasses.replace(options, labels=None), Notes())


def test_masks_of_the_ignored_class_alone(options: ScoreOptions, tmp_path: Path) -> None:
    for name in NAMES:
        Image.fromarray(np.full((24, 32), 255, np.uint8)).save(tmp_path / f"masks/{name}.png")
    with pytest.raises(UserError, match="every pixel of the masks is of the class that is left out"):
        run(options)


def test_nan_features_are_named(options: ScoreOptions, tmp_path: Path) -> None:
    Image.new("RGB", (32, 24)).save(tmp_path / "renders/b.png")
    extractor = save(tmp_path / "nan.pt", NanOnBlack())
    with pytest.raises(UserError, match="1 of 4 pictures cannot be scored") as e:
        run(options, real=tmp_path / "photos", extractor=extractor)
    assert "b.png: nan returns features that are not finite" in e.value.problems[0]


def test_the_page_shows_classes_confusion_and_pictures(options: ScoreOptions) -> None:
    result = run(options)
    page = result.report.read_text("utf-8")
    assert result.report == options.renders / "scores.html"
    assert "window" in page
    assert "Best images" in page
    assert "Worst images" in page
    assert page.count('src="data:image/') == 3 * 4
    assert "http://" not in page
    assert "https://" not in page.replace("github.com", "")
    assert f"{result.segmentation.mean_iou:.1%}" in page
    assert run(options, report=False).report is None
