"""spade convert to ONNX: what is written, what is refused, and that nothing wrong is left."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import ROOT, shared
from fake_backend import Listener
from files import save
from networks import LABELS, torch_weights
from PIL import Image
from typer.testing import CliRunner

from spadecli.backends import onnx_backend, open_backend, verify
from spadecli.cli.app import app
from spadecli.commands.convert.command import ConvertOptions, convert
from spadecli.commands.inspect.command import InspectOptions, inspect
from spadecli.commands.render.command import RenderOptions, render
from spadecli.core.architecture import Architecture
from spadecli.core.errors import BackendUnavailable, UserError
from spadecli.data.masks import read_photo, resize_photo
from spadecli.data.pixels import photo_values
from spadecli.training.recalibration import posterior_moments
from spadecli.weights.file import load_weights, read_card

WEIGHTS = ROOT / "weights" / "facades.safetensors"


@pytest.fixture(scope="module")
def facades(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "facades.onnx"
    return path, convert(ConvertOptions(WEIGHTS, path, to="onnx"))


def test_onnx_is_verified_and_its_encoder_lies_beside_it(facades):
    path, result = facades
    assert result.others == (path.parent / "encoder" / "facades.onnx",)
    assert all(p.is_file() for p in (path, *result.others))
    found = result.verification
    assert (found.images, found.stood_in, found.problems) == (4, "", [])
    assert found.max_abs < 1e-4
    assert found.code_max < 1e-4
    assert "max" in found.lines()[0]


@pytest.mark.parametrize(("precision", "least", "itself"), [("fp16", 45, True), ("bf16", 40, False)])
def test_half_precisions_say_what_ran(precision, least, itself, tmp_path):
    found = convert(ConvertOptions(WEIGHTS, tmp_path / "f.onnx", to="onnx", precision=precision)).verification
    assert found.psnr >= least
    assert (found.stood_in == "") == itself
    if not itself:
        assert "no bf16 kernels" in found.stood_in
        assert found.as_json()["file_was_run"] is False


def test_what_misses_its_tolerance_is_not_left(tmp_path, monkeypatch):
    monkeypatch.setitem(verify.MAX_ABSOLUTE, "fp32", 1e-9)
    with pytest.raises(UserError, match="nothing was written") as e:
        convert(ConvertOptions(WEIGHTS, tmp_path / "f.onnx", to="onnx"))
    assert "allowed 1e-09" in e.value.problems[0]
    assert list(tmp_path.iterdir()) == []
    convert(ConvertOptions(WEIGHTS, tmp_path / "f.onnx", to="onnx", verify=False))
    assert (tmp_path / "f.onnx").is_file()


def test_another_size_is_another_file(tmp_path):
    result = convert(ConvertOptions(WEIGHTS, tmp_path / "f.onnx", to="onnx", size=(128, 64)))
    assert result.verification.problems == []
    facts = inspect(InspectOptions(tmp_path / "f.onnx")).facts
    assert (facts["export"]["size"], facts["export"]["trained_size"]) == ("128x64", "256x256")
    with pytest.raises(UserError, match="100x100 does not fit"):
        convert(ConvertOptions(WEIGHTS, tmp_path / "g.onnx", to="onnx", size=(100, 100)))


def test_render_takes_onnx_and_refuses_other_sizes(facades, tmp_path):
    path, _ = facades
    mask = np.kron(np.arange(12, dtype=np.uint8).reshape(3, 4), np.ones((32, 32), np.uint8))
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / "m.png")
    options = {"masks": tmp_path / "masks", "samples": 2}
    by_onnx = render(RenderOptions(**options, weights=path, out=tmp_path / "onnx"))
    by_torch = render(RenderOptions(**options, weights=WEIGHTS, out=tmp_path / "torch", device="cpu"))
    assert by_onnx.images == by_torch.images == 2
    for i in range(2):
        a, b = (np.asarray(Image.open(tmp_path / d / f"m_{i}.png")).astype(int) for d in ("onnx", "torch"))
        assert np.abs(a - b).max() <= 1
    with pytest.raises(UserError, match="converted for 256x256 alone"):
        render(RenderOptions(**options, weights=path, out=tmp_path / "small", size=(128, 128)))
    with pytest.raises(UserError, match="converted for 256x256 alone"):
        render(RenderOptions(**options, weights=path, out=tmp_path / "native", size="native"))


def test_engine_auto_needs_a_gpu_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(BackendUnavailable, match="CUDA GPU"):
        render(RenderOptions(tmp_path, engine="auto"))


def test_a_dry_run_of_engine_auto_refuses_what_the_run_would_refuse_and_names_the_engine(tmp_path, monkeypatch):
    from spadecli.backends import tensorrt_backend
    from spadecli.commands.render import engine

    dry = {"masks": tmp_path / "masks", "engine": "auto", "dry_run": True, "weights": WEIGHTS, "out": tmp_path / "out"}
    (tmp_path / "masks").mkdir()
    Image.new("L", (256, 256), 1).save(tmp_path / "masks" / "m.png")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(BackendUnavailable, match="CUDA GPU"):
        render(RenderOptions(**dry))
    with pytest.raises(UserError, match="converted already"):
        render(RenderOptions(**{**dry, "weights": tmp_path / "f.onnx"}))
    with pytest.raises(UserError, match="native has many"):
        render(RenderOptions(**dry, size="native"))
    with pytest.raises(UserError, match="multiples of"):
        render(RenderOptions(**dry, size=(100, 256)))
    monkeypatch.setenv("SPADE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tensorrt_backend, "gpu", lambda device: device)
    monkeypatch.setattr(tensorrt_backend, "capability_of", lambda device: "8.6")
    monkeypatch.setattr(engine, "_runtime", lambda capability: ("tensorrt", "10.9"))
    listener = Listener()
    assert render(RenderOptions(**dry), listener).images == 1
    assert "(facades), tensorrt 10.9 fp16; its engine" in listener.notes[0]
    assert listener.notes[0].endswith("facades.engine would be built first")
    assert not (tmp_path / "cache" / "engines").exists()


def test_engine_auto_builds_once_and_again_when_the_file_is_damaged(tmp_path, monkeypatch):
    from spadecli.backends import tensorrt_backend
    from spadecli.commands.convert import to_artifact as artifact
    from spadecli.commands.render import engine
    from spadecli.core.report import Silent

    built = []

    def fake(options, output, report):
        built.append(options)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(b"engine")
        return artifact.ConvertResult(output, None, 0)

    monkeypatch.setenv("SPADE_CACHE", str(tmp_path))
    monkeypatch.setattr(tensorrt_backend, "gpu", lambda device: device)
    monkeypatch.setattr(tensorrt_backend, "capability_of", lambda device: "8.6")
    monkeypatch.setattr(engine, "_runtime", lambda capability: ("tensorrt", "10.9"))
    monkeypatch.setattr(artifact, "to_artifact", fake)

    def take(size):
        return engine.cached_engine(engine.planned_engine(WEIGHTS, size, "cuda"), Silent())

    first = take(None)
    assert (built[0].to, built[0].precision, built[0].size) == ("tensorrt", "fp16", (256, 256))
    monkeypatch.setattr(engine, "read_engine", lambda path: path)
    monkeypatch.setattr(engine, "engine_problems", lambda *_: [])
    assert take(None) == first
    assert len(built) == 1
    assert take((128, 128)) != first
    monkeypatch.setattr(engine, "engine_problems", lambda *_: ["truncated"])
    take(None)
    assert len(built) == 3


def test_inspect_shows_the_card_and_what_is_wrong(facades, tmp_path):
    path, _ = facades
    found = inspect(InspectOptions(path, weights=WEIGHTS))
    assert (found.kind, found.facts["name"], found.facts["problems"]) == ("onnx", "facades", [])
    assert found.fits
    alone = tmp_path / "deeper" / "facades.onnx"  # where the path to its weights leads nowhere
    alone.parent.mkdir()
    alone.write_bytes(path.read_bytes())
    (alone.parent / "facades.safetensors").write_bytes(b"changed")
    facts = inspect(InspectOptions(alone)).facts
    assert any("another version" in p for p in facts["problems"])
    assert any("no styles" in p for p in facts["problems"])
    assert facts["rebuild"].startswith("spade convert")
    foreign = onnx.load(path)
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(UserError, match="no spade card"):
        inspect(InspectOptions(tmp_path / "foreign.onnx"))


REFUSED = {
    "half": (["--to", "onnx", "--half"], "--half"),
    "masks": (["--to", "onnx", "--masks", "1,2,3"], "--masks: nothing"),
    "samples": (["--to", "onnx", "--samples", "1,2,3"], "--samples: nothing"),
    "both": (["--to", "onnx", "--samples", "1,2,3", "--masks", "1,2,3"], "--masks, --samples: nothing"),
    "precision": (["--precision", "fp16"], "--precision"),
    "suffix": (["--to", "onnx", "-o", "x.engine"], "end in .onnx"),
    "targets": (["--to", "onnx", "--target", "sm86"], "--target"),
    "ranges": (["--to", "tensorrt-rtx", "--masks", "3,2,1"], "--masks 3,2,1"),
    "native": (["--to", "onnx", "--size", "native"], "native"),
}


@pytest.mark.parametrize(("words", "told"), REFUSED.values(), ids=REFUSED)
def test_options_of_another_kind_are_refused(words, told, tmp_path):
    done = CliRunner().invoke(app, ["convert", str(WEIGHTS), *words])
    assert isinstance(done.exception, UserError)
    assert told in str(done.exception)


@pytest.mark.parametrize("name", ["no.safetensors", "no.pth"])
def test_missing_source_is_named(name, tmp_path):
    done = CliRunner().invoke(app, ["convert", str(tmp_path / name), "--to", "onnx"])
    assert "no such" in str(done.exception)
    assert name in str(done.exception)


def test_missing_packages_come_with_their_install_lines(monkeypatch, tmp_path):
    import importlib

    real = importlib.import_module

    def without(name, *rest):
        if name.startswith("onnx"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(BackendUnavailable) as e:
        convert(ConvertOptions(WEIGHTS, tmp_path / "f.onnx", to="onnx"))
    assert e.value.hint == 'pip install "spadecli[onnx]"'


def test_dry_run_and_json(tmp_path):
    words = ["convert", str(WEIGHTS), "--to", "onnx", "-o", str(tmp_path / "f.onnx")]
    done = CliRunner().invoke(app, [*words, "--dry-run"])
    assert "would write" in done.stdout
    assert list(tmp_path.iterdir()) == []
    data = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert data["verification"]["passed"] is True
    assert len(data["files"]) == 2


def test_devices_of_onnx_runtime_are_checked():
    with pytest.raises(UserError, match="expected auto"):
        onnx_backend._providers("gpu")
    if "CUDAExecutionProvider" not in __import__("onnxruntime").get_available_providers():
        with pytest.raises(BackendUnavailable, match="no CUDA"):
            onnx_backend._providers("cuda:1")


def test_the_prior_is_matched_to_photographs(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(4):
        save(tmp_path / "photos" / f"{i}.png", rng.integers(40 * i, 256, (20, 30, 3), np.uint8))
    options = ConvertOptions(WEIGHTS, tmp_path / "matched.safetensors", match_prior=tmp_path / "photos")
    assert convert(options).card.training["prior_matched_on_photographs"] == 4
    card, _, encoder = load_weights(tmp_path / "matched.safetensors")
    assert card.training["prior_matched_on_photographs"] == 4
    photos = [resize_photo(read_photo(tmp_path / "photos" / f"{i}.png"), card.architecture.size) for i in range(4)]
    with torch.no_grad():
        mean, deviation = posterior_moments(encoder, [torch.from_numpy(photo_values(p))[None] for p in photos])
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-4)
    torch.testing.assert_close(deviation, torch.ones_like(mean), rtol=0, atol=1e-4)


def test_without_an_encoder_no_prior_is_matched(tmp_path):
    weights = torch_weights(tmp_path, Architecture(size=(32, 32), ngf=2, hidden=4, latent="map"), LABELS)
    with pytest.raises(UserError, match="no encoder"):
        convert(ConvertOptions(weights, tmp_path / "m.safetensors", match_prior=tmp_path))
    with pytest.raises(UserError, match="--match-prior: nothing that --to onnx uses"):
        convert(ConvertOptions(WEIGHTS, tmp_path / "m.onnx", to="onnx", match_prior=tmp_path))


def test_shipped_weights_go_by_name(tmp_path):
    convert(ConvertOptions(Path("facades"), to="safetensors", output=tmp_path / "copy.safetensors"))
    assert read_card(tmp_path / "copy.safetensors").name == "facades"
    assert inspect(InspectOptions(shared("data", "facades", "train", "masks"), weights=Path("facades"))).fits
    with pytest.raises(UserError, match="nowhere: no such weights file") as e:
        open_backend("nowhere")
    assert "facades" in e.value.hint
