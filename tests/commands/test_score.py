from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import shared
from extractors import LikeInception, Tiny, save
from pictures import photographs
from PIL import Image

from spadecli.commands.score import choose, inception
from spadecli.commands.score.command import ScoreOptions, plan_score, score
from spadecli.core.errors import BackendUnavailable, UserError
from spadecli.core.report import Silent
from spadecli.metrics.extractors import open_extractor
from spadecli.metrics.features import FeatureReader
from spadecli.metrics.frechet import frechet_distance
from spadecli.metrics.kernel import kernel_distance
from spadecli.store import h5

NAMES = [f"{i:02}" for i in range(40)]
HELD = tuple(NAMES[::4])


class Notes(Silent):
    """Keeps what was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str, level: int = 0) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def options(tmp_path: Path) -> ScoreOptions:
    """Ten renders named as the held-out ones of forty photographs."""
    return ScoreOptions(
        renders=photographs(tmp_path / "renders", HELD, seed=1),
        real=photographs(tmp_path / "photos", NAMES, seed=2),
        only=HELD,
        extractor=save(tmp_path / "tiny.pt", Tiny()),
        cache=tmp_path / "cache",
    )


def write_manifest(folder: Path, samples: int, weights_sha256: str = "abc", torn: bool = False) -> None:
    """Turn a folder of pictures into renders of ``samples`` samples a mask."""
    options = {"id": "1", "size": "24x32", "edges": "", "latent": "noise", "z_dim": 4, "seed": "0", "shared_z": False}
    weights = {"weights": "w.safetensors", "weights_sha256": weights_sha256}
    made = {"seed": "7", "size": [24, 32], "options": "1", "digest": "0", "sha256": "0"}
    rows = [{"kind": "options", **options, **weights}]
    for path in sorted(folder.glob("*.png")):
        for i in range(samples):
            shutil.copy(path, folder / f"{path.stem}_{i}.png")
            rows.append({"kind": "image", "mask": path.stem, "sample": i, "file": f"{path.stem}_{i}.png", **made})
        path.unlink()
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "manifest.jsonl").write_text(text + ('{"kind": "image", "mas' if torn else ""))


def features(options: ScoreOptions, paths: list[Path]) -> np.ndarray:
    reader = FeatureReader(open_extractor(options.extractor), (24, 32), options.cache / "other")
    return reader.read(paths, Silent())


def test_distances_are_those_of_the_two_sets(options: ScoreOptions) -> None:
    result = score(options, Notes())
    rendered = features(options, sorted(options.renders.glob("*.png")))
    real = features(options, [options.real / f"{name}.png" for name in HELD])
    assert result.distances[0].frechet == pytest.approx(frechet_distance(rendered, real), rel=1e-9)
    assert result.distances[0].kernel == kernel_distance(rendered, real)
    assert result.distances[0].frechet_name == "Fréchet distance (tiny)"


def test_the_floor_never_draws_what_it_is_measured_against(options: ScoreOptions) -> None:
    shutil.copy(options.real / "00.png", options.real / "copy-of-00.png")
    plan = plan_score(options, Notes())
    assert [len(draw) for draw in plan.distances[0].floor] == [10] * 10
    drawn = {p.key for draw in plan.distances[0].floor for p in draw}
    assert drawn <= set(NAMES) - set(HELD)
    assert all(len({p.key for p in draw}) == 10 for draw in plan.distances[0].floor)
    assert len({frozenset(p.key for p in draw) for draw in plan.distances[0].floor}) == 10


def test_the_floor_is_the_mean_over_draws(options: ScoreOptions) -> None:
    plan = plan_score(options, Notes())
    real = features(options, [p.path for p in plan.distances[0].real])
    distances = [frechet_distance(features(options, [p.path for p in draw]), real) for draw in plan.distances[0].floor]
    floor = score(dataclasses.replace(options, renders=None), Notes()).distances[0].floor
    assert (floor.count, floor.draws) == (10, 10)
    assert floor.frechet_mean == pytest.approx(np.mean(distances), rel=1e-9)
    assert floor.frechet_deviation == pytest.approx(np.std(distances, ddof=1), rel=1e-9)


def test_runs_agree_whatever_the_batch(options: ScoreOptions, tmp_path: Path) -> None:
    first = score(options, Notes())
    assert score(options, Notes()) == first
    other = score(dataclasses.replace(options, batch=3, cache=tmp_path / "other"), Notes())
    assert other.distances[0].frechet == pytest.approx(first.distances[0].frechet, rel=1e-5)
    assert other.distances[0].floor.frechet_mean == pytest.approx(first.distances[0].floor.frechet_mean, rel=1e-5)
    assert score(dataclasses.replace(options, seed=1), Notes()).distances[0].floor != first.distances[0].floor


def test_identical_sets_have_no_distance(options: ScoreOptions) -> None:
    result = score(dataclasses.replace(options, renders=options.real, out=options.cache / "s.h5"), Notes())
    assert result.distances[0].frechet < 1e-6
    assert result.distances[0].floor.frechet_mean > 1e-3


def test_the_protocol_is_stored_with_the_results(options: ScoreOptions) -> None:
    result = score(options, Notes())
    assert result.path == options.renders / "scores.h5"
    with h5.open_read(result.path, "scores") as f:
        results, protocol = json.loads(f.attrs["results_json"]), json.loads(f.attrs["protocol_json"])
        pictures = dict(zip(f["name"].asstr()[:], f["sha256"].asstr()[:], strict=True))
    assert results["distances"][0]["frechet"] == result.distances[0].frechet
    assert results["distances"][0]["floor"]["draws"] == 10
    assert protocol == json.loads(json.dumps(dataclasses.asdict(result.protocol)))
    of = protocol["distances"][0]
    assert (protocol["render_count"], of["real_count"], of["paired"]) == (10, 10, 10)
    assert (of["size"], of["real_sizes"]) == ([24, 32], {"24x32": 10})
    assert of["extractor_sha256"] == h5.file_sha256(options.extractor)
    assert protocol["split"] == "10 names"
    for path in (*options.renders.glob("*.png"), options.real / "00.png"):
        assert pictures[str(path)] == h5.file_sha256(path)


def test_manifest_rows_say_which_samples_count(options: ScoreOptions) -> None:
    write_manifest(options.renders, 3, torn=True)
    photographs(options.renders, ["stray"])
    first, every = plan_score(options, Notes()), plan_score(dataclasses.replace(options, samples="all"), Notes())
    assert [p.path.name for p in first.renders] == [f"{name}_0.png" for name in HELD]
    assert len(every.renders) == 30
    assert first.protocol.samples == "first"
    assert first.protocol.weights == "w.safetensors"
    assert [len(draw) for draw in every.distances[0].floor] == [
        30
    ] * 10  # the floor has as many pictures as there are renders


def test_missing_renders_are_all_named(options: ScoreOptions) -> None:
    write_manifest(options.renders, 1)
    for name in HELD[:2]:
        (options.renders / f"{name}_0.png").unlink()
    with pytest.raises(UserError, match="2 renders are missing") as e:
        plan_score(options)
    assert [f"{name}_0.png" in p for name, p in zip(HELD[:2], e.value.problems, strict=True)] == [True, True]


def test_other_weights_than_the_manifests_are_refused(options: ScoreOptions, tmp_path: Path) -> None:
    write_manifest(options.renders, 1, weights_sha256="0" * 64)
    (tmp_path / "w.safetensors").write_bytes(b"other")
    with pytest.raises(UserError, match="did not make these renders"):
        plan_score(dataclasses.replace(options, weights=tmp_path / "w.safetensors"))


def test_nothing_is_fetched_for_photographs_that_are_not_there(
    options: ScoreOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(choose, "find_inception", lambda *args: pytest.fail("fetched"))
    with pytest.raises(UserError, match="nowhere: no such folder"):
        plan_score(dataclasses.replace(options, real=tmp_path / "nowhere", extractor=None), Notes())


def test_names_without_pictures_are_all_named(options: ScoreOptions) -> None:
    with pytest.raises(UserError, match=r"renders: 2 of 4 names have no picture") as e:
        plan_score(dataclasses.replace(options, only=("00", "04", "x", "y")))
    assert e.value.problems == ("x", "y")
    (options.renders / "00.png").unlink()
    with pytest.raises(UserError, match=r"renders: 1 of 10 names"):
        plan_score(options)


def test_sizes(options: ScoreOptions) -> None:
    photographs(options.renders, ["00"], size=(30, 30))
    with pytest.raises(UserError, match="pictures of 2 sizes") as e:
        plan_score(options)
    assert e.value.problems == ("24x32: 9 pictures", "30x30: 1 pictures")
    plan = plan_score(dataclasses.replace(options, size=(16, 16)), Notes())
    assert plan.distances[0].protocol.size == (16, 16)
    assert score(dataclasses.replace(options, size=(16, 16)), Notes()).distances[0].frechet > 0


def test_photographs_take_the_renders_size(options: ScoreOptions) -> None:
    photographs(options.real, NAMES, seed=2, size=(60, 50))
    protocol = score(options, Notes()).protocol.distances[0]
    assert (protocol.size, protocol.real_sizes) == ((24, 32), {"60x50": 10})


def test_bad_input(options: ScoreOptions, tmp_path: Path) -> None:
    def refuse(message: str, **changes: object) -> UserError:
        with pytest.raises(UserError, match=message) as e:
            plan_score(dataclasses.replace(options, **changes))
        return e.value

    refuse("two pictures or more", only=("00",))
    refuse("no such folder", real=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    maps = photographs(tmp_path / "maps", NAMES)
    for name in NAMES:
        Image.new("L", (32, 24), 3).save(maps / f"{name}.png")
    refuse("a label map, not a photo", real=maps)
    refuse("no photos in this folder", renders=tmp_path / "empty", only=())
    refuse("exclude each other", holdout="facades")
    refuse("exclude each other", inception=options.extractor)
    refuse("no recipe is called 'nonsense'", only=(), holdout="nonsense")
    few = photographs(tmp_path / "few", ["a", "b"], seed=9)
    refuse("the floor needs 10 photographs besides the real ones, found 2", floor_from=few)
    for name in ("00", "08"):
        (options.real / f"{name}.png").write_bytes(b"")
    assert len(refuse("2 of 10 pictures cannot be read").problems) == 2


def test_grey_and_transparent_pictures_count_as_colour(options: ScoreOptions) -> None:
    Image.new("L", (32, 24), 100).save(options.renders / "00.png")
    Image.new("RGBA", (32, 24), (10, 20, 30, 128)).save(options.renders / "04.png")
    assert score(options, Notes()).distances[0].frechet > 0


def test_without_other_photographs_there_is_no_floor(options: ScoreOptions) -> None:
    notes = Notes()
    renders = photographs(options.cache / "renders", NAMES, seed=3)
    result = score(dataclasses.replace(options, renders=renders, only=()), notes)
    assert result.distances[0].floor is None
    assert any("give --floor-from" in note for note in notes.notes)


def test_warnings(options: ScoreOptions) -> None:
    notes = Notes()
    score(options, notes)
    assert any("10 pictures are few for 18 dimensions" in w for w in notes.warnings)
    notes = Notes()
    others = photographs(options.cache / "renders", [f"x{i}" for i in range(20)], seed=3)
    score(dataclasses.replace(options, renders=others, only=(), unpaired=True), notes)
    assert [w for w in notes.warnings if "few" in w] == []
    assert any("only 0 of the renders' masks" in w for w in notes.warnings)


def test_the_inception_is_found_in_the_cache(options: ScoreOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = dataclasses.replace(options, extractor=None)
    monkeypatch.setattr(inception, "URL", (options.real / "nowhere.pt").as_uri())
    with pytest.raises(BackendUnavailable, match=r"no feature extractor.*could not be fetched") as e:
        plan_score(bare)
    assert str(options.cache / "inception-2015-12-05.pt") in e.value.hint
    options.cache.mkdir(exist_ok=True)
    save(options.cache / "inception-2015-12-05.pt", LikeInception())
    assert score(bare, Notes()).distances[0].frechet_name == "FID"


def test_the_python_api_is_silent_but_for_warnings(options: ScoreOptions, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        score(options)
    assert any("few" in str(w.message) for w in told)
    assert capsys.readouterr().out == ""


def test_facades_floor() -> None:
    """The floor that stands in the card of the facades weights, drawn but not computed."""
    real = shared("data", "facades", "train", "photos")
    extractor = shared("data", "weights", "squeezenet1_1_pooled.torchscript.pt")
    plan = plan_score(ScoreOptions(renders=None, real=real, holdout="facades", extractor=extractor), Notes())
    part = plan.distances[0]
    assert (len(part.real), len(part.floor), len(part.floor[0])) == (40, 10, 40)
    assert all(int(p.key) % 10 == 0 for p in plan.distances[0].real)
    assert all(int(p.key) % 10 for draw in plan.distances[0].floor for p in draw)
