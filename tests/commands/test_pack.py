"""Packing: the report, every bad input at once, nothing half-written."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import shared
from files import bomb_png, data_set, save
from PIL import Image

from spadecli.commands.pack.command import PackOptions, pack
from spadecli.core.errors import UserError
from spadecli.core.report import Silent
from spadecli.data.packed import Packed


class Notes(Silent):
    def __init__(self):
        self.notes, self.warnings = [], []

    def note(self, text, level=0):
        self.notes.append(text)

    def warn(self, text):
        self.warnings.append(text)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data_set(tmp_path)
    return tmp_path


def test_packs_what_the_recipe_names(root):
    result = pack(PackOptions())
    assert result.written
    assert (result.path, result.recipe, result.pairs, result.size) == (Path("packed.h5"), "three", 3, (32, 32))
    assert Packed("packed.h5").names == ["a", "b", "sub/c"]
    assert [(c.name, c.images) for c in result.classes] == [("wall", 3), ("window", 3), ("door", 1)]
    assert sum(c.pixels for c in result.classes) == 3 * 12 * 16
    assert result.photo_sizes == {"12x16": 3}
    assert result.sha256 == Packed("packed.h5").sha256


def test_own_folders_size_and_file(root):
    result = pack(PackOptions(root / "photos", root / "masks", recipe="recipe.toml", out=root / "o.h5", size=(6, 8)))
    assert Packed(root / "o.h5").size == result.size == (6, 8)


def test_single_pair(root):
    (root / "m").mkdir()
    mask = (root / "masks" / "b.png").rename(root / "m" / "b.png")
    assert pack(PackOptions(root / "photos" / "b.jpg", mask), Notes()).pairs == 1


def test_instance_maps_are_packed_as_they_are(root):
    ids = np.arange(12 * 16).reshape(12, 16) + 70000
    for name in ("a", "b", "sub/c"):
        save(root / "ids" / f"{name}.npy", ids)
    result = pack(PackOptions(root / "photos", root / "masks", instances=root / "ids", size=(12, 16)))
    assert result.has_instances
    assert (Packed("packed.h5").get(2)[1] == ids).all()


def test_same_files_and_options_are_left_alone(root):
    pack(PackOptions())
    before = (root / "packed.h5").stat()
    report = Notes()
    again = pack(PackOptions(), report)
    after = (root / "packed.h5").stat()
    assert again.up_to_date
    assert not again.written
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert any("up to date" in n for n in report.notes)
    assert again.classes == pack(PackOptions(overwrite=True)).classes


@pytest.mark.parametrize("change", ["file", "size", "labels", "foreign"])
def test_another_content_needs_overwrite(root, change):
    pack(PackOptions())
    options = {"size": (64, 64)} if change == "size" else {}
    if change == "file":
        save(root / "masks" / "b.png", np.zeros((12, 16), np.uint8))
    elif change == "labels":
        recipe = root / "recipe.toml"
        recipe.write_text(recipe.read_text().replace('"door"', '"gate"'))
    elif change == "foreign":
        (root / "packed.h5").write_text("mine")
    before = (root / "packed.h5").read_bytes()
    with pytest.raises(UserError, match=r"packed\.h5") as e:
        pack(PackOptions(**options))
    assert "--overwrite" in e.value.hint
    assert (root / "packed.h5").read_bytes() == before
    assert pack(PackOptions(**options, overwrite=True)).written


def break_everything(root):
    """One mistake of every kind; what the one line about it must hold."""
    pairs = {
        "value": np.full((12, 16), 9, np.uint8),
        "unknown": np.full((12, 16), 255, np.uint8),
        "colour": np.full((12, 16, 3), 7, np.uint8),
        "aspect": np.zeros((12, 20), np.uint8),
    }
    for name, mask in pairs.items():
        save(root / "masks" / f"{name}.png", mask)
        save(root / "photos" / f"{name}.jpg", np.zeros((12, 16, 3), np.uint8))
    for name in ("empty", "truncated", "bomb", "text"):
        save(root / "photos" / f"{name}.jpg", np.zeros((12, 16, 3), np.uint8))
    for name in ("empty", "text"):
        (root / "masks" / f"{name}.png").write_text("" if name == "empty" else "text")
    whole = save(root / "masks" / "truncated.png", np.random.default_rng(0).integers(0, 3, (64, 64), np.uint8))
    whole.write_bytes(whole.read_bytes()[:150])
    bomb_png(root / "masks" / "bomb.png", 20_000, 20_000)
    save(root / "masks" / "alone.png", np.zeros((12, 16), np.uint8))
    save(root / "photos" / "lonely.jpg", np.zeros((12, 16, 3), np.uint8))
    (root / "photos" / "b.jpg").write_bytes((root / "photos" / "b.jpg").read_bytes()[:300])
    return {
        "value.png": "value 9: 192 pixels",
        "unknown.png": "value 255: 192 pixels",
        "colour.png": "colour (7, 7, 7): 192 pixels",
        "aspect.jpg": "12x16 (height x width) differs in aspect",
        "empty.png": "empty",
        "truncated.png": "truncated",
        "bomb.png": "more than",
        "text.png": "not an image",
        "alone.png": "no photo of that name",
        "lonely.jpg": "no mask of that name",
        "b.jpg": "truncated",
    }


def test_every_mistake_is_reported_at_once_and_nothing_is_written(root):
    expected = break_everything(root)
    with pytest.raises(UserError, match="11 mistakes in the folders; nothing was written") as e:
        pack(PackOptions())
    for name, what in expected.items():
        (line,) = [p for p in e.value.problems if f"/{name}: " in p.replace("\\", "/")]
        assert what in line
    assert not list(root.glob("packed*"))


def test_skip_bad_leaves_them_out_and_says_so(root):
    expected = break_everything(root)
    result = pack(PackOptions(skip_bad=True))
    assert result.written
    assert len(result.skipped) == len(expected)
    assert Packed("packed.h5").names == ["a", "sub/c"]
    assert pack(PackOptions(skip_bad=True)).skipped == result.skipped
    with pytest.raises(UserError, match="packed with --skip-bad"):
        pack(PackOptions())


def test_skip_bad_with_nothing_left_is_an_error(root):
    for mask in (root / "masks").rglob("*.png"):
        mask.write_bytes(b"")
    with pytest.raises(UserError, match="not one pair") as e:
        pack(PackOptions(skip_bad=True))
    assert len(e.value.problems) == 3
    assert not list(root.glob("packed*"))


def test_dry_run_checks_all_and_writes_nothing(root):
    result = pack(PackOptions(dry_run=True))
    assert (result.pairs, result.written) == (3, False)
    assert not list(root.glob("packed*"))
    break_everything(root)
    with pytest.raises(UserError, match="11 mistakes"):
        pack(PackOptions(dry_run=True))


def test_two_masks_with_one_name_and_a_missing_folder_are_told_together(root):
    save(root / "masks" / "a.npy", np.zeros((12, 16), np.uint8))
    with pytest.raises(UserError) as e:
        pack(PackOptions(root / "nowhere", root / "masks"))
    assert any("nowhere" in p for p in e.value.problems)
    assert any("a.npy, a.png" in p for p in e.value.problems)


def test_folders_without_a_common_name(root):
    (root / "other").mkdir()
    save(root / "other" / "x.png", np.zeros((12, 16), np.uint8))
    with pytest.raises(UserError, match="has the name of one in") as e:
        pack(PackOptions(root / "photos", root / "other"))
    assert "--mask-suffix" in e.value.hint


def test_photos_and_masks_in_one_folder(root):
    for mask in (root / "masks").glob("*.png"):
        mask.rename(root / "photos" / mask.name)
    options = PackOptions(root / "photos", root / "photos", photo_suffix=".jpg", mask_suffix=".png", skip_bad=True)
    assert pack(options).pairs == 2


@pytest.mark.parametrize("out", ["recipe.toml/packed.h5", "photos"])
def test_output_that_cannot_be_written(root, out):
    with pytest.raises(UserError, match=out):
        pack(PackOptions(out=root / out))


def test_one_folder_alone_is_refused(root):
    with pytest.raises(UserError, match="both folders"):
        pack(PackOptions(photos=root / "photos"))


def test_recipe_without_data_names_the_folders(root, monkeypatch):
    (root / "empty").mkdir()
    monkeypatch.chdir(root / "empty")
    with pytest.raises(UserError) as e:
        pack(PackOptions())
    assert any("data/facades/photos" in p for p in e.value.problems)
    assert "spade pack PHOTOS MASKS" in e.value.hint


def test_remarks_on_what_is_no_mistake(root):
    recipe = root / "recipe.toml"
    text = recipe.read_text().replace("[labels]", 'holdout = ["a", "zz"]\n[labels]\ninstances = true')
    recipe.write_text(text.replace('"door"', '"door", "moat"'))
    report = Notes()
    result = pack(PackOptions(), report)
    assert result.never_seen == ("moat",)
    assert any("moat" in w for w in report.warnings)
    assert any("connected components" in w for w in report.warnings)
    assert any("1 of the 2 held-out names" in w and "zz" in w for w in report.warnings)


def test_a_kill_leaves_no_file_of_that_name(root):
    code = """
import os, signal
import spadecli.commands.pack as command
from spadecli.data.packed import PackedWriter
add = PackedWriter.add
def add_and_die(self, name, sample):
    add(self, name, sample)
    self._file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
PackedWriter.add = add_and_die
command.pack(command.PackOptions())
"""
    repository = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env={**os.environ, "PYTHONPATH": str(repository)}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert not (root / "packed.h5").exists()
    assert pack(PackOptions()).written


def test_real_photos_with_instance_maps_of_mixed_sizes(tmp_path):
    data = shared("data", "coco_sample")
    classes = ", ".join(f'"{i}"' for i in range(182))
    (tmp_path / "coco.toml").write_text(
        f"""
[data]
packed = "unused.h5"
[labels]
name = "coco"
unknown = "unknown"
instances = true
classes = [{classes}, {{ name = "unknown", value = 255 }}]
[train]
steps = 1
"""
    )
    options = PackOptions(
        data / "train_img",
        data / "train_label",
        data / "train_inst",
        recipe=str(tmp_path / "coco.toml"),
        out=tmp_path / "coco.h5",
        size=(64, 64),
    )
    result = pack(options, Notes())
    assert (result.pairs, result.has_instances) == (13, True)
    assert len(result.photo_sizes) > 3
    raw = [np.asarray(Image.open(path)) == 255 for path in (data / "train_label").iterdir()]
    assert result.classes[-1].pixels == sum(int(unknown.sum()) for unknown in raw)
    assert result.classes[-1].images == sum(bool(unknown.any()) for unknown in raw)


def test_components_stand_in_for_missing_instance_maps(root):
    recipe = root / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("[labels]", "[labels]\ninstances = true"))
    report = Notes()
    assert pack(PackOptions(), report).has_instances
    assert any("connected components" in w and "in their place" in w for w in report.warnings)
    packed = Packed(root / "packed.h5")
    codes, instances, _ = packed.get(0)
    for number in np.unique(instances):
        assert len(np.unique(codes[instances == number])) == 1
    assert len(np.unique(instances)) > len(np.unique(codes))


def test_squeezed_photos_are_pointed_out(root):
    report = Notes()
    pack(PackOptions(), report)  # photos of 12x16 to 32x32
    assert any("12x16" in w and "squeezed to 32x32" in w for w in report.warnings)
    report = Notes()
    pack(PackOptions(size=(24, 32), out=root / "same.h5"), report)
    assert not any("squeezed" in w for w in report.warnings)


OUTSIDE = 'classes = ["wall", "window", "door", { name = "outside", value = 255 }]\nunknown = "outside"'


def with_outside(root: Path, mark: np.ndarray, name: str = "b", classes: str = OUTSIDE) -> None:
    recipe = root / "recipe.toml"
    text = recipe.read_text().replace('classes = ["wall", "window", "door"]', classes)
    recipe.write_text(text.replace('packed = "packed.h5"', 'packed = "packed.h5"\noutside = "outside"'))
    save(root / "outside" / f"{name}.png", mark)


def test_what_is_outside_is_packed_as_unknown(root):
    mark = np.zeros((12, 16), bool)
    mark[:3, 4:] = True
    pack(PackOptions(size=(12, 16), out=Path("before.h5")))
    with_outside(root, mark)
    result = pack(PackOptions(size=(12, 16)))
    before, after = Packed("before.h5"), Packed("packed.h5")
    for i, name in enumerate(after.names):
        expected = np.where(mark & (name == "b"), 255, before.get(i)[0])
        assert (after.get(i)[0] == expected).all()
        assert (after.get(i)[2] == before.get(i)[2]).all()
    assert {c.name: c.pixels for c in result.classes}["outside"] == mark.sum()
    assert pack(PackOptions(size=(12, 16))).up_to_date
    save(root / "outside" / "b.png", ~mark)
    with pytest.raises(UserError, match="packed from other files"):
        pack(PackOptions(size=(12, 16)))


def test_what_is_outside_can_be_found_in_the_photos(root):
    photo = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)  # twice the size of its label map
    photo[:10, :12] = 0
    Image.fromarray(photo).save(root / "photos" / "b.png")
    (root / "photos" / "b.jpg").unlink()
    with_outside(root, np.zeros((12, 16), bool))
    recipe = root / "recipe.toml"
    recipe.write_text(re.sub('outside = ".*"', 'outside = "auto"', recipe.read_text()))
    pack(PackOptions(size=(12, 16)))
    packed = Packed("packed.h5")
    codes = packed.get(list(packed.names).index("b"))[0]
    assert (codes[:5, :6] == 255).all()
    assert (codes[7:] != 255).all()
    assert pack(PackOptions(size=(12, 16))).up_to_date


def test_masks_of_the_outside_that_do_not_fit_are_named(root):
    with_outside(root, np.zeros((12, 20), bool))
    save(root / "outside" / "a.png", np.arange(192, dtype=np.uint8).reshape(12, 16))
    with pytest.raises(UserError, match="2 mistakes") as e:
        pack(PackOptions())
    first, second = e.value.problems
    assert "a.png: not a 1-bit mask" in first
    assert "b.png: 12x20 (height x width), and its label map is 12x16" in second


def test_the_outside_needs_an_unknown_class(root):
    with_outside(root, np.zeros((12, 16), bool), classes='classes = ["wall", "window", "door"]')
    with pytest.raises(UserError) as e:
        pack(PackOptions())
    assert any("data.outside needs a class that labels.unknown names" in p for p in e.value.problems)


def test_label_maps_in_the_place_of_photos_are_named(root):
    (root / "photos" / "b.jpg").unlink()
    save(root / "photos" / "b.png", np.eye(12, 16, dtype=np.uint8))
    with pytest.raises(UserError) as e:
        pack(PackOptions())
    told = str(e.value) + "".join(e.value.problems)
    assert "photos/b.png: a label map, not a photo (grey PNG of 2 values)" in told
    assert not list(root.glob("packed*"))
