"""What inspect says about each kind of file, and whether it fits."""

import json

import numpy as np
import pytest
from files import THREE_CLASSES, data_set, save
from safetensors.numpy import save_file

from spadecli.commands.inspect import InspectOptions, inspect
from spadecli.commands.pack import PackOptions, pack
from spadecli.core.architecture import Architecture
from spadecli.core.card import Card
from spadecli.core.errors import UserError
from spadecli.core.labelspace import LabelSpace
from spadecli.data.masks import colorize

MASK = np.array([[0, 0, 2], [2, 2, 2]], np.uint8)


def weights(path, labels=THREE_CLASSES):
    """A weights file of which only the header counts."""
    card = Card(name="toy", architecture=Architecture(size=(32, 32)), labels=labels, licence="CC0")
    tensors = {
        "generator.head.weight": np.zeros((4, 3, 3, 3), np.float16),
        "generator.norm.running_mean": np.zeros(9, np.float32),
        "encoder.mu.weight": np.zeros((2, 5), np.float16),
    }
    save_file(tensors, path, metadata={"card": card.model_dump_json()})
    return path


def test_mask_by_values(tmp_path):
    found = inspect(InspectOptions(save(tmp_path / "m.png", MASK)))
    assert found.kind == "mask"
    assert found.facts == {"size": "2x3", "stored": "PNG, mode L"}
    assert found.rows == ({"value": "0", "pixels": 2, "images": 1}, {"value": "2", "pixels": 4, "images": 1})


def test_mask_by_colours(tmp_path):
    found = inspect(InspectOptions(save(tmp_path / "m.png", colorize(MASK, THREE_CLASSES))))
    r, g, b = THREE_CLASSES.classes[2].color
    assert found.rows[0] == {"value": f"({r}, {g}, {b})", "pixels": 4, "images": 1}


def test_mask_fits_weights(tmp_path):
    options = InspectOptions(save(tmp_path / "m.png", MASK), weights=weights(tmp_path / "w.safetensors"))
    found = inspect(options)
    assert found.fits == str(tmp_path / "w.safetensors")
    assert [(r["name"], r["pixels"]) for r in found.rows] == [("wall", 2), ("door", 4)]


def test_folder_lists_every_misfit(tmp_path):
    save(tmp_path / "m" / "good.png", MASK)
    save(tmp_path / "m" / "bad.png", MASK + 7)
    save(tmp_path / "m" / "worse.jpg", MASK)
    with pytest.raises(UserError, match="2 of 3 masks cannot be used") as e:
        inspect(InspectOptions(tmp_path / "m", weights=weights(tmp_path / "w.safetensors")))
    assert ["bad.png" in e.value.problems[0], "worse.jpg" in e.value.problems[1]] == [True, True]


def test_folder_by_values_and_by_classes(tmp_path):
    save(tmp_path / "m" / "a.png", MASK)
    save(tmp_path / "m" / "sub" / "b.npy", MASK[:1])
    found = inspect(InspectOptions(tmp_path / "m"))
    assert found.facts == {"masks": 2, "sizes": {"2x3": 1, "1x3": 1}}
    assert found.rows == ({"value": "0", "pixels": 4, "images": 2}, {"value": "2", "pixels": 5, "images": 2})
    fitted = inspect(InspectOptions(tmp_path / "m", weights=weights(tmp_path / "w.safetensors")))
    assert [(r["pixels"], r["images"]) for r in fitted.rows] == [(4, 2), (0, 0), (5, 2)]


def test_recipe_by_name_and_with_several_mistakes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = inspect(InspectOptions(path=tmp_path.__class__("facades")))
    assert found.kind == "recipe"
    assert found.facts["files_exist"] == {"photos": False, "masks": False, "packed": False}
    assert len(found.rows) == 12
    data_set(tmp_path)
    text = (tmp_path / "recipe.toml").read_text()
    (tmp_path / "recipe.toml").write_text(text.replace("steps = 10", "stepz = 10\nbatch = 0"))
    with pytest.raises(UserError, match="mistakes in the recipe") as e:
        inspect(InspectOptions(tmp_path / "recipe.toml"))
    assert any("stepz" in p for p in e.value.problems)
    assert any("train.batch" in p for p in e.value.problems)


def test_weights(tmp_path):
    found = inspect(InspectOptions(weights(tmp_path / "w.safetensors")))
    assert found.kind == "weights"
    assert found.facts["parameters"] == {"generator": 108, "encoder": 10}
    assert found.facts["licence"] == "CC0"
    assert json.dumps(found.facts)


def test_packed_file_and_whether_it_fits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data_set(tmp_path)
    pack(PackOptions())
    path = tmp_path / "packed.h5"
    found = inspect(InspectOptions(path, weights=weights(tmp_path / "w.safetensors")))
    assert found.kind == "packed"
    assert found.facts["pairs"] == 3
    assert [r["images"] for r in found.rows] == [3, 3, 1]
    assert found.facts["datasets"]["photo"] == "uint8 [3, 32, 32, 3]"
    assert json.dumps(found.facts)
    other = LabelSpace(name="o", classes=("wall", "door", "window", "moat"), instances=True)
    with pytest.raises(UserError, match="does not fit") as e:
        inspect(InspectOptions(path, weights=weights(tmp_path / "o.safetensors", other)))
    assert e.value.problems == (
        "value 1: window here, door there",
        "value 2: door here, window there",
        "value 3: no class here, moat there",
        "instance-edge channel: false here, true there",
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [("a.pth", "PyTorch checkpoint"), ("a.xyz", "unknown kind"), ("gone", "no such file"), ("a.h5", "not a readable")],
)
def test_other_files(tmp_path, name, message):
    if name != "gone":
        (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match=message):
        inspect(InspectOptions(tmp_path / name))


def test_two_label_spaces_are_one_too_many(tmp_path):
    with pytest.raises(UserError, match="give one"):
        inspect(InspectOptions(tmp_path, weights=tmp_path / "w", recipe="facades"))
