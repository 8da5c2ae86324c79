"""Rendering as a whole, with a backend that computes at once.

Long, since it walks through one folder of renders: first run, resuming, other options, damage.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import h5py
import numpy as np
import pytest
from fake_backend import FakeBackend, Listener, make_card, pixels, source, write_mask
from PIL import Image

from spadecli.commands.render.command import RenderOptions, render_with
from spadecli.core.errors import PartialFailure, UserError
from spadecli.core.seeds import sample_seed, sample_z
from spadecli.store.manifest import ManifestWriter, read_manifest


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "deep/er/b.png", "Häuser #1.png"):
        write_mask(tmp_path / "masks" / name)
    return tmp_path


def options(folder: Path, **more) -> RenderOptions:
    return RenderOptions(**{"masks": folder / "masks", "out": folder / "out", "workers": 2, **more})


def run(folder, backend=None, report=None, sha256="a" * 64, **more):
    return render_with(source(backend, sha256), options(folder, **more), report or Listener())


def images(out: Path) -> dict[str, bytes]:
    found = (p for p in out.rglob("*") if p.suffix in (".png", ".jpg", ".webp") and "_masks" not in p.parts)
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in found}


def test_names_rows_and_z(folder):
    result = run(folder, samples=2, seed=5)
    files = [f"{n}_{i}.png" for n in ("Häuser #1", "a", "deep/er/b") for i in (0, 1)]
    assert sorted(images(result.out)) == sorted(files)
    assert (result.images, result.skipped, result.masks) == (6, 0, 3)
    rows = read_manifest(result.manifest).images
    seed = sample_seed(5, "deep/er/b", 1)
    row = rows["deep/er/b_1.png"]
    assert (row["mask"], row["sample"], row["seed"]) == ("deep/er/b", 1, str(seed))
    blue = int(np.trunc((np.tanh(sample_z(seed, 4)[0]) + 1) / 2 * 255))
    assert pixels(result.out / "deep/er/b_1.png")[0, 0].tolist() == [63, 127, blue]
    assert not list(result.out.rglob("*.part"))


def test_decomposed_names_render_as_composed_ones(tmp_path):
    write_mask(tmp_path / "masks" / unicodedata.normalize("NFD", "é.png"))
    assert list(images(run(tmp_path).out)) == [unicodedata.normalize("NFC", "é_0.png")]


@pytest.mark.parametrize("batch", [1, 2, 5, 64])
def test_batch_size_changes_nothing(folder, batch):
    reference = images(run(folder, samples=3, out=folder / "reference", batch=3).out)
    backend = FakeBackend()
    assert images(run(folder, backend, samples=3, batch=batch).out) == reference
    assert max(m * s for m, s in backend.calls) <= batch


def test_samples_of_a_mask_share_a_call(folder):
    backend = FakeBackend()
    run(folder, backend, samples=4, batch=8)
    assert backend.calls == [(2, 4), (1, 4)]


def test_second_run_does_nothing_and_more_samples_add(folder):
    first = run(folder, samples=1)
    before = images(first.out)
    backend = FakeBackend()
    again = run(folder, backend, samples=1)
    assert (again.images, again.skipped, backend.calls) == (0, 3, [])
    more = run(folder, samples=3)
    assert (more.images, more.skipped) == (6, 3)
    assert before.items() <= images(more.out).items()


def test_a_missing_image_is_made_again(folder):
    out = run(folder).out
    before = images(out)
    (out / "a_0.png").unlink()
    assert run(folder).images == 1
    assert images(out) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_run_goes_on(folder, error):
    reference = images(run(folder, samples=2, out=folder / "reference").out)
    backend = FakeBackend(fail_after=2)
    backend.error = error
    with pytest.raises(error):
        run(folder, backend, samples=2, batch=1)
    done = images(folder / "out")
    assert len(done) == 2
    assert not list((folder / "out").rglob("*.part"))
    rest = run(folder, samples=2, batch=1)
    assert (rest.images, rest.skipped) == (4, 2)
    assert images(rest.out) == reference


SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell begin deaf to it
sys.path[:0] = [{tests!r}]
from fake_backend import FakeBackend, source
from pathlib import Path
from spadecli.commands.render.command import RenderOptions, render_with
from spadecli.core.report import Silent
class Slow(FakeBackend):
    def run(self, *batch):
        time.sleep(0.05)
        return super().run(*batch)
render_with(source(Slow()), RenderOptions(masks=Path({masks!r}), out=Path({out!r}), samples=60, batch=1), Silent())
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_process_leaves_a_folder_that_goes_on(folder, how):
    code = SLOW.format(tests=str(Path(__file__).parents[1]), masks=str(folder / "masks"), out=str(folder / "out"))
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    manifest = folder / "out/manifest.jsonl"
    deadline = time.monotonic() + 30
    while len(read_manifest(manifest).images) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(how)
    process.wait(30)
    done = read_manifest(manifest).images
    assert 3 <= len(done) < 180
    for file in done:
        Image.open(folder / "out" / file).load()
    (folder / "out/deep/er").mkdir(parents=True, exist_ok=True)
    (folder / "out/deep/er/b_0.png.123.part").write_bytes(b"half")
    (folder / "out/mine.part").write_bytes(b"kept")
    rest = run(folder, samples=60)
    assert [p.name for p in rest.out.rglob("*.part")] == ["mine.part"]
    assert rest.skipped == len(done)
    assert len(images(rest.out)) == 180


def test_other_options_name_overwrite(folder):
    run(folder, samples=2)
    with pytest.raises(UserError, match="would replace") as e:
        run(folder, seed=1, samples=2, size=(32, 32))
    assert "6 images" in e.value.problems[0]
    assert "size 64x64 (now 32x32)" in e.value.problems[0]
    assert "--overwrite" in e.value.hint
    with pytest.raises(UserError) as e:
        run(folder, seed=1, samples=2)
    assert "another seed" in e.value.problems[0]
    assert run(folder, seed=1, samples=2, overwrite=True).images == 6
    assert run(folder, seed=1, samples=2).skipped == 6


def test_a_changed_mask_is_noticed(folder):
    run(folder)
    write_mask(folder / "masks/a.png", value=2)
    with pytest.raises(UserError) as e:
        run(folder)
    assert "changed since" in e.value.problems[0]
    assert e.value.hint.startswith("replace its images with --overwrite, or give another folder with -o")
    assert "mend" not in e.value.hint
    write_mask(folder / "masks/x.png", value=9)
    with pytest.raises(UserError, match="2 of 4") as e:
        run(folder)
    assert all(way in e.value.hint for way in ("repair or remove", "--overwrite", "--skip-bad"))
    (folder / "masks/x.png").unlink()
    replaced = run(folder, overwrite=True)
    assert (replaced.images, replaced.skipped) == (1, 2)
    assert read_manifest(replaced.manifest).masks["a"]["shares"] == {"<b>door</b>": 1.0}


def test_other_weights_begin_the_manifest_anew(folder):
    run(folder)
    with pytest.raises(UserError, match="other weights"):
        run(folder, sha256="b" * 64)
    result = run(folder, sha256="b" * 64, overwrite=True, masks=folder / "masks/a.png")
    assert list(read_manifest(result.manifest).images) == ["a_0.png"]


def test_files_of_other_programs_are_kept(folder):
    (folder / "out").mkdir()
    (folder / "out/a_0.png").write_bytes(b"mine")
    with pytest.raises(UserError) as e:
        run(folder)
    assert e.value.problems[0].startswith("in no manifest.jsonl (of another program, or the manifest was removed)")
    assert e.value.problems[0].endswith(": 1 image, the first a_0.png")
    assert "--overwrite" in e.value.hint
    assert (folder / "out/a_0.png").read_bytes() == b"mine"


def test_torn_manifest_makes_one_image_again(folder):
    out = run(folder).out
    manifest = out / "manifest.jsonl"
    text = manifest.read_text("utf-8")
    manifest.write_text(text[:-20], "utf-8")
    assert run(folder).images == 1
    assert len(read_manifest(manifest).images) == 3


def test_one_render_at_a_time(folder):
    manifest = run(folder).manifest
    with ManifestWriter(manifest, read_manifest(manifest)), pytest.raises(UserError, match="another spade render"):
        run(folder, samples=2)


def test_shared_z(folder):
    out = run(folder, samples=2, shared_z=True).out
    blue = {name: pixels(out / name)[0, 0, 2] for name in images(out)}
    assert len({v for n, v in blue.items() if n.endswith("_0.png")}) == 1
    assert blue["a_0.png"] != blue["a_1.png"]
    assert read_manifest(out / "manifest.jsonl").images["a_1.png"]["seed"] == str(sample_seed(0, "", 1))


def test_a_single_file_is_called_by_its_name(folder):
    result = run(folder, masks=folder / "masks/deep/er/b.png")
    assert list(images(result.out)) == ["b_0.png"]
    assert read_manifest(result.manifest).images["b_0.png"]["seed"] == str(sample_seed(0, "b", 0))


def test_latent_map_has_one_image(folder):
    backend = FakeBackend(make_card(latent="map"))
    with pytest.raises(UserError, match="every sample of a mask would be the same"):
        run(folder, backend, samples=2)
    result = run(folder, backend)
    assert result.images == 3
    assert run(folder, FakeBackend(make_card(latent="map")), seed=9).skipped == 3
    with h5py.File(result.h5) as f:
        assert f["z"].shape == (3, 0)


def test_edges(folder):
    card = make_card(instances=True)
    report, backend = Listener(), FakeBackend(card)
    run(folder, backend, report)
    assert len(report.warnings) == 1
    assert "connected components" in report.warnings[0]
    assert all(e.any() for e in backend.edges)
    report, backend = Listener(), FakeBackend(card)
    run(folder, backend, report, use_edges=False, out=folder / "zeros")
    assert (report.warnings, backend.edges) == ([], [None])


def test_instances(folder):
    for name in ("a.png", "deep/er/b.png"):
        write_mask(folder / "instances" / name, value=7)
    backend = FakeBackend(make_card(instances=True))
    with pytest.raises(UserError, match="1 of 3 masks have no instance map") as e:
        run(folder, backend, instances=folder / "instances")
    assert "Häuser #1.png" in e.value.problems[0]
    write_mask(folder / "instances/Häuser #1.png", size=(32, 64))
    with pytest.raises(UserError) as e:
        run(folder, backend, instances=folder / "instances")
    assert "32x64, but its mask" in e.value.problems[0]
    write_mask(folder / "instances/Häuser #1.png", value=1)
    report = Listener()
    run(folder, backend, report, instances=folder / "instances")
    assert report.warnings == []
    assert not any(e.any() for e in backend.edges)


def test_options_that_cannot_be_are_listed_at_once(folder):
    with pytest.raises(UserError) as e:
        run(folder, samples=0, batch=0, quality=101, size=(65, 64), instances=folder)
    text = str(e.value)
    for part in (
        "--samples 0",
        "--batch 0",
        "--quality 101: PNG is lossless",
        "no edge channel",
        "size that fits is",
    ):
        assert part in text
    assert text.count("--quality") == 1
    assert not (folder / "out").exists()


def test_native_size(folder):
    write_mask(folder / "masks/wide.png", size=(40, 100))
    report = Listener()
    out = run(folder, report=report, size="native").out
    assert pixels(out / "wide_0.png").shape == (32, 96, 3)
    assert pixels(out / "a_0.png").shape == (64, 64, 3)
    assert [n for n in report.notes if "native" in n] == ["native size: 1 of 4 masks rounded to multiples of 32"]
    with pytest.raises(UserError, match="needs one size"):
        run(folder, size="native", pixels_in_h5=True)


@pytest.mark.parametrize(("image_format", "suffix"), [("jpeg", "jpg"), ("webp", "webp")])
def test_formats(folder, image_format, suffix):
    out = run(folder, image_format=image_format, quality=80).out
    image = Image.open(out / f"a_0.{suffix}")
    assert (image.format, image.size) == (image_format.upper(), (64, 64))


def test_bad_masks_are_all_listed_and_nothing_is_written(folder):
    write_mask(folder / "masks/x.png", value=9)
    (folder / "masks/y.png").write_bytes(b"")
    with pytest.raises(UserError, match="2 of 5 masks") as e:
        run(folder)
    assert len(e.value.problems) == 2
    assert "x.png" in e.value.problems[0]
    assert "value 9" in e.value.problems[0]
    assert not (folder / "out").exists()
    result = run(folder, skip_bad=True)
    assert result.images == 3
    with pytest.raises(PartialFailure, match="2 of 5"):
        result.raise_for_problems()


def test_skip_bad_with_no_good_mask(tmp_path):
    write_mask(tmp_path / "masks/x.png", value=9)
    with pytest.raises(UserError, match=r"x\.png: values outside") as alone:
        run(tmp_path, skip_bad=True)
    assert "--skip-bad" not in str(alone.value)
    assert not (tmp_path / "out").exists()
    write_mask(tmp_path / "masks/y.png", value=9)
    with pytest.raises(UserError, match="2 of 2 masks cannot be rendered") as both:
        run(tmp_path, skip_bad=True)
    assert "--skip-bad" not in both.value.hint
    assert not (tmp_path / "out").exists()


def test_what_is_wrong_with_a_single_mask_is_said_once(tmp_path):
    path = write_mask(tmp_path / "masks/x.png", value=9)
    with pytest.raises(UserError) as e:
        run(tmp_path, masks=path)
    assert str(e.value).count("x.png") == 1
    assert "--skip-bad" not in str(e.value)


def test_places_that_cannot_be(folder):
    with pytest.raises(UserError, match="lies in the folder of masks"):
        run(folder, out=folder / "masks/renders")
    (folder / "out").mkdir()
    (folder / "elsewhere").mkdir()
    (folder / "out/deep").symlink_to(folder / "elsewhere")
    with pytest.raises(UserError) as e:
        run(folder)
    assert "leads out of" in e.value.problems[0]
    assert not list((folder / "elsewhere").iterdir())
    write_mask(folder / "masks" / f"{'n' * 245}.png")
    with pytest.raises(UserError, match="cannot be written") as e:
        run(folder, out=folder / "other")
    assert "too long" in e.value.problems[0]


def test_an_image_never_replaces_a_mask(tmp_path):
    write_mask(tmp_path / "masks/masks/a.png")
    write_mask(tmp_path / "masks/a_0.png")
    with pytest.raises(UserError) as e:
        run(tmp_path, out=tmp_path)
    assert "is one of the masks" in e.value.problems[0]


def test_dry_run_writes_nothing(folder):
    result = run(folder, samples=2, dry_run=True)
    assert (result.images, result.skipped) == (6, 0)
    assert result.lines()[0].startswith("would render 6 images of 3 masks")
    assert not (folder / "out").exists()


def test_archive(folder):
    result = run(folder, samples=2, pixels_in_h5=True)
    with h5py.File(result.h5) as f:
        names = [n.decode() for n in f["mask_name"]]
        assert names == ["Häuser #1"] * 2 + ["a"] * 2 + ["deep/er/b"] * 2
        assert f["sample"][:].tolist() == [0, 1] * 3
        assert f["seed"].dtype == np.uint64
        assert int(f["seed"][3]) == sample_seed(0, "a", 1)
        assert np.array_equal(f["z"][3], sample_z(sample_seed(0, "a", 1), 4))
        assert np.array_equal(f["image"][3], pixels(result.out / "a_1.png"))
        assert json.loads(f.attrs["config_json"])["options"][0]["weights"] == "fake.safetensors"
    stamp = result.h5.stat().st_mtime_ns
    assert run(folder, samples=2, pixels_in_h5=True).h5.stat().st_mtime_ns == stamp
    result.h5.unlink()
    rebuilt = run(folder, samples=2)
    with h5py.File(rebuilt.h5) as f:
        assert "image" not in f
        assert len(f["z"]) == 6


def test_disk_full_is_a_clear_error(folder, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("spadecli.commands.render.write.write_bytes", full)
    with pytest.raises(UserError, match="No space left"):
        run(folder)


def test_output_that_is_not_finite_is_refused(folder):
    class Broken(FakeBackend):
        def run(self, labels, edges, z):
            return super().run(labels, edges, z) * np.float32(np.nan)

    with pytest.raises(UserError, match=r"Häuser #1_0\.png: .*not finite"):
        run(folder, Broken())
    assert not (folder / "out").exists()
    run(folder)
    before = {p: p.read_bytes() for p in (folder / "out").rglob("*") if p.is_file()}
    with pytest.raises(UserError, match="not finite"):
        run(folder, Broken(), sha256="b" * 64, overwrite=True)
    assert {p: p.read_bytes() for p in (folder / "out").rglob("*") if p.is_file()} == before


def test_too_little_memory_names_batch(folder):
    class Small(FakeBackend):
        def run(self, labels, edges, z):
            raise MemoryError("CUDA out of memory")

    with pytest.raises(UserError, match="out of memory on cpu with 6 images of 64x64") as e:
        run(folder, Small(), samples=2, batch=6)
    assert "--batch 3" in e.value.hint
    with pytest.raises(UserError) as e:
        run(folder, Small(), batch=1)
    assert "--size" in e.value.hint


@pytest.mark.parametrize("damage", [b"", b"something else"])
def test_images_that_were_cut_off_or_replaced_are_made_again(folder, damage):
    out = run(folder, samples=2).out
    before = images(out)
    (out / "a_1.png").write_bytes(damage)
    again = run(folder, samples=2)
    assert (again.images, again.skipped) == (1, 5)
    assert images(out) == before


def test_broken_images_are_named_before_they_go_into_the_archive(folder):
    out = run(folder).out
    sizes = {name: len(data) for name, data in images(out).items()}
    (out / "a_0.png").write_bytes(bytes(sizes["a_0.png"]))
    (out / "Häuser #1_0.png").write_bytes(bytes(sizes["Häuser #1_0.png"]))
    with pytest.raises(UserError, match="2 images of 3 cannot go into") as e:
        run(folder, pixels_in_h5=True)
    assert ["Häuser #1_0.png" in e.value.problems[0], "a_0.png" in e.value.problems[1]] == [True, True]
    assert "remove them" in e.value.hint


def test_far_too_many_samples_are_refused_at_once(folder, monkeypatch):
    for samples in (100_001, 10**11):
        with pytest.raises(UserError, match="expected at most 100,000"):
            run(folder, samples=samples, dry_run=True)
    monkeypatch.setattr("spadecli.commands.render.targets.MAX_IMAGES", 5)
    with pytest.raises(UserError, match="6 images of 3 masks; expected at most 5"):
        run(folder, samples=2, dry_run=True)


def test_a_gallery_leaves_out_masks_without_a_row(folder):
    manifest = run(folder).manifest
    lines = manifest.read_text("utf-8").splitlines(keepends=True)
    manifest.write_text("".join(row for row in lines if '"kind":"mask","mask":"a"' not in row), "utf-8")
    gallery = run(folder, masks=folder / "masks/deep").gallery
    assert 'data-name="deep/er/b"' in gallery.read_text("utf-8")
    assert 'data-name="a"' not in gallery.read_text("utf-8")


def test_result_as_json(folder):
    result = run(folder)
    data = json.loads(json.dumps(result.as_json()))
    assert data["images"] == 3
    assert Path(data["gallery"]).is_file()
    assert dataclasses.replace(result, seconds=2.0).rate == 1.5
    assert dataclasses.replace(result, images=1, masks=1).lines()[0].startswith("1 image of 1 mask in ")


def test_precision_is_part_of_what_an_image_is_made_of_and_the_form_is_not(folder):
    first = run(folder, plain=True)
    assert run(folder).skipped == first.images
    rows = read_manifest(first.manifest)
    assert "precision" not in rows.newest_options  # folders of before it could be chosen go on
    with pytest.raises(UserError) as e:
        run(folder, precision="bf16")
    assert "precision fp32 (now bf16)" in str(e.value.problems)
    again = run(folder, precision="bf16", overwrite=True)
    assert (again.images, again.skipped) == (first.images, 0)
