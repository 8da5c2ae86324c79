"""Converted files whose weights have changed, that are damaged, or that lie in another's place."""

import importlib.util
import json
import re
import shlex
import shutil

import numpy as np
import onnx
import pytest
from networks import LABELS, SMALL, torch_weights
from PIL import Image
from typer.testing import CliRunner

import spadecli
from spadecli.backends.artifact import read_onnx
from spadecli.cli.app import app
from spadecli.commands.convert.command import ConvertOptions, convert
from spadecli.commands.inspect.command import InspectOptions, inspect
from spadecli.core.architecture import Architecture
from spadecli.core.errors import UserError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder: the weights in "the weights", their .onnx and its encoder in "out"."""
    folder = tmp_path_factory.mktemp("made")
    for name in ("the weights", "out", "masks", "photos"):
        (folder / name).mkdir()
    torch_weights(folder / "the weights", Architecture(**SMALL, latent="encoder"), LABELS)
    options = {"to": "onnx", "size": (64, 32), "precision": "fp16", "verify": False}
    convert(ConvertOptions(folder / "the weights" / "w.safetensors", folder / "out" / "w.onnx", **options))
    Image.fromarray(np.full((64, 32), 7, np.uint8)).save(folder / "masks" / "m.png")
    Image.fromarray(np.full((64, 64, 3), 99, np.uint8)).save(folder / "photos" / "p.jpg")
    return folder


@pytest.fixture
def there(made, tmp_path, monkeypatch):
    """A copy of it, from inside."""
    shutil.copytree(made, tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    return tmp_path / "there"


def invoke(*words):
    return CliRunner().invoke(app, list(words))


def edit(path, **metadata):
    """Change values of an .onnx file's metadata; a function of the parsed JSON, or plain text."""
    model = onnx.load(path)
    for p in model.metadata_props:
        if p.key in metadata:
            change = metadata[p.key]
            if callable(change):
                data = json.loads(p.value)
                change(data)
                p.value = json.dumps(data)
            else:
                p.value = change
    onnx.save(model, path)


REBUILD = "spade convert 'the weights/w.safetensors' --to onnx --precision fp16 --size 64x32 -o out/w.onnx --overwrite"


@pytest.mark.parametrize(
    "words", [("render", "masks"), ("stylize", "masks", "--ref", "photos/p.jpg")], ids=["render", "stylize"]
)
def test_changed_weights_are_noticed_and_the_command_told_rebuilds(there, words):
    words = (*words, "-w", "out/w.onnx", "-o", "renders")
    assert invoke(*words, "--dry-run").exception is None
    torch_weights(there / "the weights", Architecture(**{**SMALL, "z_dim": 4}, latent="encoder"), LABELS)
    error = invoke(*words).exception
    assert isinstance(error, UserError)
    assert error.problems == ("made from another version of the weights/w.safetensors",)
    assert error.hint == f"build it again: {REBUILD}"
    assert not (there / "renders").exists()
    assert invoke(*shlex.split(REBUILD)[1:], "--no-verify").exception is None
    assert read_onnx(there / "out" / "w.onnx").card.architecture.z_dim == 4
    done = invoke(*words)
    assert done.exception is None, done.exception


def test_weights_are_found_where_they_were_or_beside(there):
    assert read_onnx(there / "out" / "w.onnx").rebuild == REBUILD.replace("out/w.onnx", str(there / "out" / "w.onnx"))
    of_encoder = inspect(InspectOptions(there / "out" / "encoder" / "w.onnx")).facts
    assert (of_encoder["export"]["kind"], of_encoder["problems"]) == ("encoder", [])
    (there / "out" / "w.safetensors").write_bytes(b"another network of the same name")
    spadecli.open_backend("out/w.onnx", "cpu").close()  # it was not made from that one
    (there / "the weights" / "w.safetensors").unlink()
    with pytest.raises(UserError, match="stale") as e:
        spadecli.open_backend("out/w.onnx")
    assert "spade convert out/w.safetensors --to onnx" in e.value.hint
    (there / "out" / "w.safetensors").unlink()
    spadecli.open_backend("out/w.onnx", "cpu").close()  # nothing to compare with
    assert read_onnx(there / "out" / "w.onnx").rebuild.startswith("spade convert w.safetensors --to onnx")


def test_an_encoder_of_other_weights_is_refused(there):
    encoder = there / "out" / "encoder" / "w.onnx"
    edit(encoder, spade_export=lambda data: data.update(weights_sha256="0" * 64))
    with pytest.raises(UserError, match="stale or foreign") as e:
        spadecli.open_backend("out/w.onnx")
    (problem,) = e.value.problems
    assert "encoder/w.onnx: made from other weights (sha256 000000000000...) than out/w.onnx" in problem
    assert e.value.hint == f"build it again: {REBUILD}"
    edit(encoder, spade_card=lambda data: data["architecture"].update(z_dim=9))
    with pytest.raises(UserError) as e:
        spadecli.open_backend("out/w.onnx")
    assert "Z = 9, out/w.onnx takes Z = 5" in e.value.problems[1]
    assert len(inspect(InspectOptions(there / "out" / "w.onnx")).facts["problems"]) == 2


def test_files_in_each_others_places_are_named(there):
    with pytest.raises(UserError, match="an image encoder, which renders nothing") as e:
        spadecli.open_backend("out/encoder/w.onnx")
    assert e.value.hint == "give its generator: out/w.onnx"
    shutil.copy("out/w.onnx", "out/encoder/w.onnx")
    with pytest.raises(UserError, match="stale or foreign") as e:
        spadecli.open_backend("out/w.onnx")
    assert e.value.problems == ("out/encoder/w.onnx: a generator, where the image encoder belongs",)


DAMAGED = {
    "torn": ("{", "not JSON"),
    "a list": ("[]", "expected a JSON object, found list"),
    "no weights": (lambda data: data.pop("weights"), "weights: missing"),
    "no kind": (lambda data: data.pop("kind"), "kind: missing"),
    "no such precision": (lambda data: data.update(precision="fp8"), "precision: .*'fp8'"),
    "no size": (lambda data: data.update(size="banana"), "^size: "),
    "no hash": (lambda data: data.update(weights_sha256=7), "weights_sha256: "),
}


@pytest.mark.parametrize(("change", "words"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_metadata_is_an_error_of_one_line(there, change, words):
    edit(there / "out" / "w.onnx", spade_export=change)
    for command in (["render", "masks", "-w", "out/w.onnx"], ["inspect", "out/w.onnx"]):
        error = invoke(*command).exception
        assert isinstance(error, UserError), repr(error)
        assert error.message.startswith("out/w.onnx: its spade_export: damaged")
        assert re.search(words, error.problems[0])
        assert "spade convert WEIGHTS.safetensors --to onnx -o out/w.onnx --overwrite" in error.hint


TAKES = "its graph takes labels uint8 [*,64,32], z float [*,5], its card says "
CONTRADICTIONS = {
    "z": (lambda card: card["architecture"].update(z_dim=9), "labels uint8 [*,64,32], z float [*,9]"),
    "size": (lambda card: card["architecture"].update(size=[64, 64]), "labels uint8 [*,64,64], z float [*,5]"),
    "instances": (
        lambda card: card["labels"].update(instances=True),
        "labels uint8 [*,64,32], edges uint8 [*,64,32], z float [*,5]",
    ),
    "latent": (lambda card: card["architecture"].update(latent="map"), "labels uint8 [*,64,32]"),
}


@pytest.mark.parametrize(("change", "words"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_card_that_contradicts_its_graph_is_refused(there, change, words):
    for path in ("out/w.onnx", "out/encoder/w.onnx"):  # one card in both, else the encoder is the other's
        edit(there / path, spade_card=change)
    error = invoke("render", "masks", "-w", "out/w.onnx").exception
    assert isinstance(error, UserError), repr(error)
    assert error.message == "out/w.onnx: stale or foreign"
    assert error.problems[0] == TAKES + words
    assert error.hint.startswith("build it again: spade convert 'the weights/w.safetensors' --to onnx")


def test_graphs_with_too_little_are_refused(there):
    model = onnx.load("out/w.onnx")
    model.graph.output[0].name = model.graph.node[-1].output[0] = "pictures"
    onnx.save(model, "out/w.onnx")
    with pytest.raises(UserError, match="stale or foreign") as e:
        spadecli.open_backend("out/w.onnx", "cpu")
    (problem,) = e.value.problems
    assert problem == "its graph gives pictures float [*,3,64,32], its card says images float [*,3,64,32]"
    del model.graph.output[:]
    onnx.save(model, "out/w.onnx")
    with pytest.raises(UserError) as e:
        spadecli.open_backend("out/w.onnx", "cpu")
    assert "spade convert 'the weights/w.safetensors' --to onnx" in e.value.hint


def test_an_encoder_with_another_graph_is_refused_when_it_is_used(there):
    path = there / "out" / "encoder" / "w.onnx"
    model = onnx.load(path)
    model.graph.output[1].name = model.graph.node[-1].output[0] = "codes"
    onnx.save(model, path)
    with spadecli.open_backend("out/w.onnx", "cpu") as backend, pytest.raises(UserError, match="stale") as e:
        backend.encode(np.zeros((1, 3, 64, 64), np.float32))
    assert e.value.problems[0].startswith("out/encoder/w.onnx: its graph gives")


def test_a_name_that_no_file_can_have_is_that_of_none(there):
    edit(there / "out" / "w.onnx", spade_export=lambda data: data.update(weights="x" * 5000))
    spadecli.open_backend("out/w.onnx", "cpu").close()
    assert inspect(InspectOptions(there / "out" / "w.onnx")).facts["problems"] == []


ENCODERS = {
    "empty": (lambda path: path.write_bytes(b""), "an empty file"),
    "torn": (lambda path: path.write_bytes(path.read_bytes()[:1000]), "not a readable ONNX file"),
    "metadata": (lambda path: edit(path, spade_export="{"), "damaged"),
    "no card": (lambda path: onnx.save(onnx.ModelProto(producer_name="x"), path), "no spade card"),
}


@pytest.mark.parametrize(("damage", "words"), ENCODERS.values(), ids=ENCODERS)
def test_a_damaged_encoder_is_made_again_with_its_generator(there, damage, words):
    damage(there / "out" / "encoder" / "w.onnx")
    with pytest.raises(UserError, match=r"out/w\.onnx: stale or foreign") as e:
        spadecli.open_backend("out/w.onnx")
    assert e.value.problems[0].startswith("out/encoder/w.onnx: ")
    assert words in e.value.problems[0]
    assert e.value.hint == f"build it again: {REBUILD}"
    if words != "no spade card":
        with pytest.raises(UserError) as e:
            inspect(InspectOptions(there / "out" / "encoder" / "w.onnx"))
        assert "-o out/w.onnx --overwrite" in e.value.hint


def test_an_empty_file_is_made_again(there):
    (there / "out" / "w.onnx").write_bytes(b"")
    with pytest.raises(UserError, match="an empty file") as e:
        spadecli.open_backend("out/w.onnx")
    assert "--to onnx -o out/w.onnx --overwrite" in e.value.hint


def test_a_converted_source_is_answered_with_its_weights(there):
    error = invoke("convert", "out/w.onnx", "--to", "tensorrt-rtx").exception
    assert isinstance(error, UserError)
    assert "converted already" in error.message
    assert error.hint == "spade convert 'the weights/w.safetensors' --to tensorrt-rtx -o out/w.engine"
    assert "that was the weights/w.safetensors" in invoke("convert", "out/w.onnx").exception.hint
    (there / "x.engine").write_bytes(b"x")
    assert "WEIGHTS.safetensors --to onnx" in invoke("convert", "x.engine", "--to", "onnx").exception.hint


def test_a_side_file_is_not_replaced_unasked(there):
    if not any(importlib.util.find_spec(m) for m in ("tensorrt_rtx", "tensorrt_rtx_bindings")):
        pytest.skip("needs the tensorrt-rtx extra")
    (there / "w.engine.json").write_text("mine")
    error = invoke("convert", "the weights/w.safetensors", "--to", "tensorrt-rtx", "-o", "w.engine").exception
    assert isinstance(error, UserError)
    assert "w.engine.json: exists already" in error.message
    assert (there / "w.engine.json").read_text() == "mine"
