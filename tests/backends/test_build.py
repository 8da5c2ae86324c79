"""Engines of TensorRT for RTX, built for real from the shipped weights; no GPU is needed to build them.

One file, since its tests share the engines that it builds, seconds each.
"""

import importlib.util
import json
import re
import shlex
import shutil
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from conftest import ROOT
from fake_backend import Listener
from networks import FORMS, LABELS, SMALL, torch_weights
from typer.testing import CliRunner

import spadecli
from spadecli.backends import build as building
from spadecli.backends.artifact import read_engine
from spadecli.backends.build import build, check_targets, load_runtime, through_float
from spadecli.backends.compatibility import engine_problems
from spadecli.backends.onnx_export import export
from spadecli.backends.profile import Profile, parse_range
from spadecli.backends.tensorrt_backend import split
from spadecli.cli.app import app
from spadecli.commands.convert.command import ConvertOptions, convert, parse_targets
from spadecli.core.architecture import Architecture
from spadecli.core.errors import BackendUnavailable, UserError
from spadecli.store.h5 import file_sha256

WEIGHTS = ROOT / "weights" / "facades.safetensors"
needs_rtx = pytest.mark.skipif(
    not any(importlib.util.find_spec(m) for m in ("tensorrt_rtx", "tensorrt_rtx_bindings")),
    reason="needs the tensorrt-rtx extra",
)
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU says")


TARGETS = {"fp16": ("sm86", "sm89"), "fp32": ()}
LEAST_BYTES = {"fp16": 13e6, "fp32": 27e6}


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    """precision -> (path, result): an fp16 engine for two GPUs, an fp32 one for the usual ones."""

    @cache
    def made(precision):
        path = tmp_path_factory.mktemp("engine") / "facades.engine"
        options = ConvertOptions(
            WEIGHTS,
            path,
            to="tensorrt-rtx",
            precision=precision,
            targets=TARGETS[precision],
            profile=Profile((1, 2, 4), (1, 4, 8)),
        )
        return path, convert(options)

    return made


@pytest.fixture
def engine(engines):
    return engines("fp16")


@needs_rtx
@without_gpu
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_an_engine_its_encoder_and_their_side_files(engines, precision):
    path, result = engines(precision)
    encoder = path.parent / "encoder" / path.name
    assert set(result.others) == {
        encoder,
        path.with_name("facades.engine.json"),
        encoder.with_name("facades.engine.json"),
    }
    side = json.loads(path.with_name("facades.engine.json").read_text())
    assert side["inputs"] == {"labels": ["UINT8", [-1, 256, 256]], "z": ["FLOAT", [-1, 64]]}
    assert side["outputs"] == {"images": ["FLOAT", [-1, 3, 256, 256]]}
    assert (side["runtime"], side["runtime_version"]) == ("tensorrt-rtx", load_runtime("tensorrt-rtx").__version__)
    assert side["targets"] == list(TARGETS[precision])
    assert side["profile"] == {"masks": [1, 2, 4], "samples": [1, 4, 8]}
    assert (side["precision"], side["export"]["precision"], side["export"]["kind"]) == (
        precision,
        precision,
        "generator",
    )
    assert side["card"]["name"] == "facades"
    assert side["engine_bytes"] == path.stat().st_size
    assert side["weights_sha256"] == file_sha256(WEIGHTS)
    assert side["engine_sha256"] == file_sha256(path)
    assert path.stat().st_size > LEAST_BYTES[precision]
    of_encoder = json.loads(encoder.with_name("facades.engine.json").read_text())
    assert of_encoder["inputs"] == {"photos": ["FLOAT", [-1, 3, -1, -1]]}
    assert of_encoder["outputs"] == {"mu": ["FLOAT", [-1, 64]], "logvar": ["FLOAT", [-1, 64]]}
    assert (of_encoder["precision"], of_encoder["export"]["kind"]) == ("fp32", "encoder")
    assert (of_encoder["photo_sides"], side["photo_sides"]) == ([16, 256, 4096], None)
    # what was verified, and that it was not the engine
    assert "not run" in result.verification.stood_in
    assert "ONNX Runtime" in result.verification.ran
    assert result.verification.psnr > 45
    assert result.verification.problems == []
    assert side["verification"]["file_was_run"] is False
    assert any("not run" in line for line in result.verification.lines())


@needs_rtx
def test_fp32_builds_with_types_profile_and_progress():
    model = export(WEIGHTS, "fp32", for_engine=True).generator
    listener = Listener()
    titles = []
    plain = listener.progress
    listener.progress = lambda title, total, done=0: titles.append((title, total)) or plain(title, total, done)
    built = build("tensorrt-rtx", model, Profile((1, 1, 2), (1, 1, 2)), listener)
    assert len(built.blob) > 27e6
    assert built.inputs == {"labels": ("UINT8", (-1, 256, 256)), "z": ("FLOAT", (-1, 64))}
    assert built.outputs == {"images": ("FLOAT", (-1, 3, 256, 256))}
    assert built.targets == ()
    assert titles
    assert any("info" in note for note in listener.notes)


@needs_rtx
def test_profiles_and_targets_reach_the_builder():
    trt = load_runtime("tensorrt-rtx")
    log = building.make_logger(trt, Listener())
    builder = trt.Builder(log)
    network, parser = building._parse(trt, builder, log, export(WEIGHTS, for_engine=True).generator)
    profile = building._profile(builder, network, Profile((1, 2, 4), (1, 3, 5)))
    assert [tuple(s) for s in profile.get_shape("z")] == [(1, 64), (6, 64), (20, 64)]
    assert [tuple(s) for s in profile.get_shape("labels")] == [(n, 256, 256) for n in (1, 2, 4)]
    config = builder.create_builder_config()
    building._set_targets(trt, config, ("sm75", "sm120"))
    assert [config.get_compute_capability(i).name for i in range(config.num_compute_capabilities)] == ["SM75", "SM120"]
    del parser


@needs_rtx
def test_targets_are_checked_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setattr("spadecli.backends.onnx_export.export", lambda *_: pytest.fail("the work has begun"))
    for options, words in [
        ({"targets": ("sm10", "sm86")}, r"--target sm10: .* supports sm75, .*sm120"),
        ({"targets": ("sm75", "sm86"), "precision": "bf16"}, "--target sm75: these GPUs have no bf16"),
    ]:
        with pytest.raises(UserError, match=words):
            convert(ConvertOptions(WEIGHTS, tmp_path / "f.engine", to="tensorrt-rtx", **options))
    check_targets("tensorrt-rtx", ("sm80",), "bf16")
    without = SimpleNamespace(__version__="10.9", IBuilderConfig=SimpleNamespace)
    monkeypatch.setattr(building, "load_runtime", lambda kind: without)
    with pytest.raises(UserError, match="only for the GPU of this machine"):
        check_targets("tensorrt", ("sm86",), "fp32")


@needs_rtx
@without_gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_turing_is_built_for(precision, tmp_path):
    """The example of the help, as a user types it; TensorRT for RTX has no fp32 matrix products there."""
    path = tmp_path / "f.engine"
    words = ["--to", "tensorrt-rtx", "--target", "sm75", "--precision", precision, "-o", str(path)]
    done = CliRunner().invoke(app, ["convert", str(WEIGHTS), *words])
    assert done.exception is None, done.exception
    for file in (path, path.parent / "encoder" / path.name):
        assert read_engine(file).side.targets == ("sm75",)
        assert engine_problems(read_engine(file), None, "7.5") == []


@needs_rtx
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_network_builds_for_turing(form, tmp_path):
    form = {**SMALL, "latent": "encoder", "encoder_grid": 4, **form}
    labels = LABELS.model_copy(update={"instances": form.pop("instances", False)})
    weights = torch_weights(tmp_path, Architecture(**{k: v for k, v in form.items() if k != "at"}), labels)
    exported = export(weights, "fp16", form.get("at"), for_engine=True)
    for model in filter(None, (exported.generator, exported.encoder)):
        assert build("tensorrt-rtx", model, Profile((1, 1, 2), (1, 1, 1)), Listener(), ("sm75",)).blob


@needs_rtx
def test_what_parser_and_builder_say_is_in_the_error(monkeypatch):
    model = export(WEIGHTS, for_engine=True).generator
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    node = next(n for n in broken.graph.node if n.op_type == "Tanh")
    node.op_type = "Unheard"
    monkeypatch.setattr(onnx.checker, "check_model", lambda *_, **__: None)
    with pytest.raises(UserError) as e:
        build("tensorrt-rtx", broken, Profile(), Listener())
    assert "Unheard" in str(e.value.problems)
    # no shape in the profile: the builder returns None
    monkeypatch.setattr(building, "_profile", lambda builder, *_: builder.create_optimization_profile())
    with pytest.raises(UserError, match="could not build") as e:
        build("tensorrt-rtx", model, Profile(), Listener())
    assert e.value.problems


class Interrupted(Listener):
    """Ctrl-C at the first ``where``: the message of the builder, the start of its work, a step of it."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where, self.hits, self.steps = where, 0, 0

    def interrupt(self, where: str) -> None:
        self.steps += where == "step"
        if where == self.where and not self.hits:
            self.hits += 1
            raise KeyboardInterrupt

    def note(self, text, level=0):
        self.interrupt("message" if text.startswith("info") else "")

    @contextmanager
    def progress(self, title, total, done=0):
        self.interrupt("start")
        yield SimpleNamespace(advance=lambda n=1, status="": self.interrupt("step" if n else "inner"))


@needs_rtx
@pytest.mark.parametrize("where", ["message", "start", "step"])
def test_ctrl_c_ends_a_build(where):
    listener = Interrupted(where)
    with pytest.raises(KeyboardInterrupt):
        build("tensorrt-rtx", export(WEIGHTS, for_engine=True).generator, Profile(), listener)
    assert listener.hits == 1
    assert listener.steps <= 1  # the builder has been told, too


@needs_rtx
def test_uint8_by_way_of_float_parses_too():
    trt = load_runtime("tensorrt-rtx")
    log = building.make_logger(trt, Listener())
    model = through_float(export(WEIGHTS, for_engine=True).generator)
    assert [n.op_type for n in model.graph.node[:2]] == ["Cast", "Cast"]
    network, parser = building._parse(trt, trt.Builder(log), log, model)
    assert network.get_input(0).dtype == trt.DataType.UINT8
    del parser


@needs_rtx
@without_gpu
def test_stale_and_foreign_engines_are_named_with_the_line_that_rebuilds(engine, tmp_path):
    source, _ = engine
    path = tmp_path / "a folder" / "facades.engine"  # where the weights of the side file's path are not
    path.parent.mkdir()
    tmp_path = path.parent
    path.write_bytes(source.read_bytes())
    side_text = source.with_name("facades.engine.json").read_text()
    side = json.loads(side_text)
    side_path = path.with_name("facades.engine.json")

    def problems(version=side["runtime_version"], capability="8.6", **changed) -> str:
        side_path.write_text(json.dumps({**side, **changed}))
        return "; ".join(engine_problems(read_engine(path), version, capability))

    assert problems() == ""
    assert "this machine has 9.9" in problems("9.9")
    assert "capabilities 8.6, 8.9; this GPU has 7.5" in problems(capability="7.5")
    assert "compute capability 8.0; this one has 9.0" in problems(
        capability="9.0", targets=[], compute_capability="8.0"
    )
    assert "8.0 and later; this GPU has 7.5" in problems(capability="7.5", targets=[])
    side_path.write_text(side_text)
    with pytest.raises(BackendUnavailable, match="CUDA GPU"):
        spadecli.open_backend(path)
    (tmp_path / "facades.safetensors").write_bytes(b"other weights")
    with pytest.raises(UserError, match="stale or foreign") as e:
        spadecli.open_backend(path)
    assert "another version" in e.value.problems[0]
    assert e.value.hint == "build it again: " + shlex.join(
        [
            *("spade", "convert", str(tmp_path / "facades.safetensors"), "--to", "tensorrt-rtx", "--precision", "fp16"),
            *("--size", "256x256", "--masks", "1,2,4", "--samples", "1,4,8", "--target", "sm86,sm89"),
            *("-o", str(path), "--overwrite"),
        ]
    )
    (tmp_path / "facades.safetensors").unlink()
    path.write_bytes(source.read_bytes()[:1000])
    with pytest.raises(UserError) as e:
        spadecli.open_backend(path)
    assert "truncated: 1,000 of" in e.value.problems[0]
    side_path.unlink()
    with pytest.raises(UserError, match=r"side file facades\.engine\.json is missing") as e:
        spadecli.open_backend(path)
    assert f"-o '{path}' --overwrite" in e.value.hint


DAMAGED = {
    "no length": (lambda side: side.pop("engine_bytes"), "engine_bytes: missing"),
    "unknown runtime": (lambda side: side.update(runtime="tensorrt-next"), "runtime: .*'tensorrt-next'"),
    "profile": (lambda side: side.update(profile={"masks": [0, 0, 0], "samples": [1, 1, 1]}), r"masks \[0, 0, 0\]"),
    "no weights": (lambda side: side["export"].pop("weights"), "export.weights: missing"),
    "no card": (lambda side: side.update(card=None), "card: "),
    "targets": (lambda side: side.update(targets=["86"]), "targets.0: "),
}


@needs_rtx
@without_gpu
@pytest.mark.parametrize(("damage", "words"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_side_files_are_errors_of_one_line(engine, damage, words, tmp_path):
    source, _ = engine
    path = tmp_path / "facades.engine"
    path.write_bytes(b"x")
    side = json.loads(source.with_name("facades.engine.json").read_text())
    damage(side)
    path.with_name("facades.engine.json").write_text(json.dumps(side))
    with pytest.raises(UserError, match=r"facades.engine.json: damaged") as e:
        spadecli.open_backend(path)
    assert any(re.search(words, p) for p in e.value.problems), e.value.problems
    assert "spade convert WEIGHTS.safetensors --to tensorrt-rtx" in e.value.hint
    for text in ("[]", "{", "", "null"):
        path.with_name("facades.engine.json").write_text(text)
        with pytest.raises(UserError, match=r"facades.engine.json: damaged"):
            spadecli.open_backend(path)


@needs_rtx
@without_gpu
@pytest.mark.parametrize("part", ["generator", "encoder"])
def test_an_engine_whose_card_asks_for_other_inputs_is_refused(engine, part, tmp_path):
    shutil.copytree(engine[0].parent, tmp_path / "copy")
    path = tmp_path / "copy" / "facades.engine"
    side_path = (path if part == "generator" else path.parent / "encoder" / path.name).with_name("facades.engine.json")
    side = json.loads(side_path.read_text())
    side["inputs"] = {**side["inputs"], "z": ["FLOAT", [-1, 9]]}
    side_path.write_text(json.dumps(side))
    with pytest.raises(UserError, match="stale or foreign") as e:
        spadecli.open_backend(path)
    assert "z float [*,9], its card says" in e.value.problems[0]


@needs_rtx
@without_gpu
def test_engines_in_each_others_places_are_named(engine, tmp_path):
    source, _ = engine
    encoder = source.parent / "encoder" / source.name
    with pytest.raises(UserError, match="an image encoder") as e:
        spadecli.open_backend(encoder)
    assert str(source) in e.value.hint
    shutil.copytree(source.parent, tmp_path / "copy")
    for name in ("facades.engine", "facades.engine.json"):
        shutil.copy(source.with_name(name), tmp_path / "copy" / "encoder" / name)
    with pytest.raises(UserError, match="stale or foreign") as e:
        spadecli.open_backend(tmp_path / "copy" / "facades.engine")
    assert "a generator, where the image encoder belongs" in e.value.problems[0]


def test_a_missing_runtime_comes_with_its_install_line(monkeypatch):
    monkeypatch.setattr(building, "MODULES", {"tensorrt": ("no_such_module",)})
    with pytest.raises(BackendUnavailable, match="tensorrt is not installed") as e:
        load_runtime("tensorrt")
    assert e.value.hint == 'pip install "spadecli[tensorrt]"'


@pytest.mark.parametrize("profile", [Profile((1, 1, 2), (1, 1, 2)), Profile((3, 3, 3), (2, 2, 2)), Profile()])
@pytest.mark.parametrize(("masks", "samples"), [(1, 1), (3, 2), (5, 3), (1, 9)])
def test_any_batch_is_cut_to_the_profile(profile, masks, samples):
    labels = np.arange(masks, dtype=np.uint8).reshape(-1, 1, 1)
    z = np.arange(masks * samples, dtype=np.float32).reshape(-1, 1)
    out = np.full((masks, samples), -1.0)
    for chunk, inputs in split(profile, labels, None, z):
        assert profile.masks[0] <= len(inputs["labels"]) <= profile.masks[2]
        assert profile.rows[0] <= len(inputs["z"]) <= profile.rows[2]
        got = (inputs["z"] + 100 * np.repeat(inputs["labels"][:, 0].astype(int), chunk.padded_samples, 0)).reshape(
            chunk.padded_masks, chunk.padded_samples
        )
        m, s = chunk.masks, chunk.samples
        out[m, s] = got[: m.stop - m.start, : s.stop - s.start]
    np.testing.assert_array_equal(out.ravel(), z[:, 0] + 100 * np.repeat(np.arange(masks), samples))


def test_targets_are_names_each_once():
    assert parse_targets("SM75, sm75,sm86") == ("sm75", "sm86")
    assert parse_targets(None) == ()
    for text in ("sm75,", "", ",sm86"):
        with pytest.raises(UserError, match="has no name"):
            parse_targets(text)


@pytest.mark.parametrize("text", ["1,2", "3,2,1", "0,1,2", "a,b,c", ""])
def test_ranges_are_checked(text):
    with pytest.raises(UserError, match="MIN,OPT,MAX"):
        parse_range("--masks", text)
