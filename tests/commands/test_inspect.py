"""What inspect says about each kind of file, and whether it fits."""

import json

import numpy as np
import pytest
from fake_backend import source, write_mask
from files import THREE_CLASSES, data_set, save
from safetensors.numpy import save_file
from typer.testing import CliRunner

from spadecli.cli.app import app
from spadecli.commands.inspect.command import InspectOptions, inspect
from spadecli.commands.pack.command import PackOptions, pack
from spadecli.commands.render.command import RenderOptions, render_with
from spadecli.core.architecture import Architecture
from spadecli.core.errors import UserError
from spadecli.core.labelspace import LabelSpace
from spadecli.core.recipe_files import find_recipe, load_recipe
from spadecli.core.report import Silent
from spadecli.data.masks import colorize
from spadecli.store.run_folder import RunFolder, RunRecord
from spadecli.weights.card import Card

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
    assert len(found.rows) == 13
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


def test_renders(tmp_path):
    for name in ("a", "b"):
        write_mask(tmp_path / f"masks/{name}.png")
    options = RenderOptions(masks=tmp_path / "masks", out=tmp_path / "out", samples=2)
    render_with(source(), options, Silent())
    found = inspect(InspectOptions(tmp_path / "out"))
    assert found.kind == "renders"
    wanted = {"weights": "fake.safetensors", "seed": "0", "size": "64x64", "masks": 2, "images": 4}
    assert wanted.items() <= found.facts.items()
    assert (found.facts["missing"], found.facts["changed"]) == ([], [])
    (tmp_path / "out/a_0.png").unlink()
    (tmp_path / "out/b_1.png").write_bytes(b"cut off")
    facts = inspect(InspectOptions(tmp_path / "out")).facts
    assert (facts["missing"], facts["changed"]) == (["a_0.png"], ["b_1.png"])
    with pytest.raises(UserError, match="no label space"):
        inspect(InspectOptions(tmp_path / "out", recipe="facades"))


def test_archive_of_renders_is_short(tmp_path):
    write_mask(tmp_path / "masks/a.png")
    render_with(source(), RenderOptions(masks=tmp_path / "masks", out=tmp_path / "out"), Silent())
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path / "out/renders.h5")]).stdout
    assert "config.options: weights fake.safetensors" in shown
    assert "color" not in shown
    assert max(map(len, shown.splitlines())) < 250


def test_run(tmp_path):
    recipe = load_recipe(find_recipe("facades")).recipe
    run = RunFolder(tmp_path / "run")
    made = {"created_by": "spade", "origin": "facades.toml", "data_sha256": "0", "init": None, "fit_minutes": None}
    record = RunRecord(recipe=recipe, steps=10, **made)
    run.write(record)
    run.append_stats({"step": 4})
    found = inspect(InspectOptions(tmp_path / "run", recipe="facades"))
    assert (found.kind, found.fits) == ("run", "recipe facades")
    wanted = {"recipe": "facades", "step": 4, "steps": 10, "finished": False, "weights": None}
    assert wanted.items() <= found.facts.items()
    run.write(record.model_copy(update={"finished": True}))
    assert inspect(InspectOptions(tmp_path / "run")).facts["step"] == 10
    (tmp_path / "run/run.json").write_text('{"steps": 10}')
    with pytest.raises(UserError, match=r"run\.json: damaged"):
        inspect(InspectOptions(tmp_path / "run"))


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
