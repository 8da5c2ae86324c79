"""What every backend promises. New backends join by adding their way to make an artifact to BACKENDS."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import FORM_SIZE, FORMS, LABELS, SMALL, torch_weights

import spadecli
from spadecli.backends.profile import Profile
from spadecli.commands.convert.command import ConvertOptions, convert
from spadecli.core.architecture import Architecture
from spadecli.core.errors import BackendUnavailable, UserError
from spadecli.core.labelspace import LabelSpace
from spadecli.cpu.generator import FastGenerator
from spadecli.model.generator import Generator
from spadecli.weights.file import folded_state_dict, load_weights, read_card


def converted(folder: Path, arch: Architecture, labels: LabelSpace, **options) -> Path:
    """An artifact of fresh weights; ``at`` is its size where that is not the training size."""
    weights = torch_weights(folder, arch, labels)
    options["size"] = options.pop("at", None)
    return convert(ConvertOptions(weights, overwrite=True, **options)).path


def onnx_file(folder: Path, arch: Architecture, labels: LabelSpace, **options) -> Path:
    return converted(folder, arch, labels, to="onnx", **options)


def engine_file(folder: Path, arch: Architecture, labels: LabelSpace, **options) -> Path:
    kind = "tensorrt" if importlib.util.find_spec("tensorrt") else "tensorrt-rtx"
    return converted(folder, arch, labels, to=kind, profile=Profile((1, 2, 2), (1, 1, 3)), **options)


BACKENDS = {"torch": torch_weights, "onnx": onnx_file, "engine": engine_file}
DEVICES = {"torch": "cpu", "onnx": "cpu", "engine": "cuda"}


@pytest.fixture(params=["torch", "onnx", pytest.param("engine", marks=pytest.mark.gpu)])
def make(request, tmp_path):
    """Open a backend on fresh weights: make(latent, instances, at=size of an artifact, **architecture)."""
    opened = []

    def build(latent="encoder", instances=False, at=None, **options):
        arch = Architecture(
            **{"size": (32, 64), "ngf": 2, "z_dim": 5, "hidden": 4, "norm": "instance", "latent": latent, **options}
        )
        labels = LABELS.model_copy(update={"instances": instances})
        more = {"at": at} if at and request.param != "torch" else {}
        path = BACKENDS[request.param](tmp_path, arch, labels, **more)
        opened.append(spadecli.open_backend(path, device=DEVICES[request.param]))
        return opened[-1]

    yield build
    for backend in opened:
        backend.close()


def some_labels(num: int, size=(32, 64), seed=0) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array([0, 7, 9, 255], np.uint8), (num, *size))


def some_z(rows: int, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, 5)).astype(np.float32)


@pytest.mark.parametrize(("masks", "samples"), [(1, 1), (1, 4), (3, 1), (2, 3)])
def test_rows_are_masks_times_samples_whatever_the_batch(make, masks, samples):
    backend = make()
    labels, z = some_labels(masks), some_z(masks * samples)
    images = backend.run(labels, None, z)
    assert images.shape == (masks * samples, 3, 32, 64)
    assert images.dtype == np.float32
    assert np.abs(images).max() <= 1
    assert images.std() > 1e-4
    for mask in range(masks):
        for sample in range(samples):
            row = mask * samples + sample
            alone = backend.run(labels[mask : mask + 1], None, z[row : row + 1])
            np.testing.assert_allclose(images[row], alone[0], atol=2e-5)


def test_file_values_are_mapped_to_channels(make):
    backend = make()
    zeros, nines = np.zeros((1, 32, 64), np.uint8), np.full((1, 32, 64), 9, np.uint8)
    z = some_z(1)
    np.testing.assert_array_equal(backend.run(zeros, None, z), backend.run(nines, None, z))  # both mean "b"
    assert np.abs(backend.run(zeros, None, z) - backend.run(zeros + 7, None, z)).max() > 1e-5


def test_edges_count_and_none_means_zeros(make):
    backend = make(instances=True)
    labels, z = some_labels(1), some_z(1)
    edges = np.zeros_like(labels)
    np.testing.assert_array_equal(backend.run(labels, None, z), backend.run(labels, edges, z))
    assert np.abs(backend.run(labels, edges + 1, z) - backend.run(labels, edges, z)).max() > 1e-6


def test_latent_map_ignores_z(make):
    backend = make("map")
    labels = some_labels(2)
    np.testing.assert_array_equal(backend.run(labels, None, None), backend.run(labels, None, some_z(2)))


def test_other_sizes_of_the_stride_run_and_others_are_refused_by_name(make):
    backend = make(at=(96, 64), size=FORM_SIZE)
    assert backend.run(some_labels(1, (96, 64)), None, some_z(1)).shape == (1, 3, 96, 64)
    with pytest.raises(UserError) as e:
        backend.run(some_labels(1, (40, 64)), None, some_z(1))
    assert "40x64" in e.value.message
    assert "32x64" in e.value.hint
    if backend.fixed_size:
        with pytest.raises(UserError, match="images of 96x64 only, not 32x64") as e:
            backend.run(some_labels(1), None, some_z(1))
        assert "--size 32x64" in e.value.hint


# graphs in ONNX Runtime are compared in tests/model/test_parity.py, but for values of labels and the way through a file
@pytest.mark.parametrize(
    ("make", "form"),
    [
        ("onnx", "edges of the map"),
        ("onnx", "another size"),
        *(pytest.param("engine", form, marks=pytest.mark.gpu) for form in FORMS),
    ],
    indirect=["make"],
)
def test_every_form_of_network_gives_the_same_images_as_torch(make, form, tmp_path):
    form, atol = {"size": FORM_SIZE, **FORMS[form]}, 1e-4
    with make(**form) as backend, spadecli.open_backend(tmp_path / "w.safetensors", "cpu") as reference:
        size = form.get("at", form["size"])
        uses_z = form.get("latent") != "map"
        labels, z = some_labels(2, size), some_z(6) if uses_z else None
        edges = some_labels(2, size) % 2 if form.get("instances") else None
        expected = reference.run(labels, edges, z)
        np.testing.assert_allclose(backend.run(labels, edges, z), expected, atol=atol)
        # that is far less than what any of the inputs does
        assert expected.std() > 1e-2
        moved = [(some_labels(2, size, seed=1), edges, z)]
        moved += [(labels, 1 - edges, z)] if edges is not None else []
        moved += [(labels, edges, some_z(6, seed=1))] if uses_z else []
        for inputs in moved:
            assert np.abs(reference.run(*inputs) - expected).max() > 100 * atol


def test_encode(make):
    backend = make()
    photos = np.random.default_rng(0).uniform(-1, 1, (3, 3, 50, 70)).astype(np.float32)
    mu, logvar = backend.encode(photos)
    assert mu.shape == logvar.shape == (3, 5)
    np.testing.assert_allclose(backend.encode(photos[1:2])[0][0], mu[1], atol=1e-5)
    with pytest.raises(UserError, match=r"\[-1,1\]"):
        backend.encode(photos * 9)
    with pytest.raises(UserError, match="float64"):
        backend.encode(photos.astype(np.float64))
    with pytest.raises(UserError, match="nothing to encode"):
        backend.encode(photos[:0])
    with pytest.raises(UserError, match="no image encoder"):
        make("noise").encode(photos)


@pytest.mark.parametrize("grid", [0, 4])
@pytest.mark.parametrize("size", [(256, 256), (50, 70), (300, 257)])
def test_style_codes_are_those_of_torch(make, grid, size, tmp_path):
    photos = np.random.default_rng(0).uniform(-1, 1, (2, 3, *size)).astype(np.float32)
    with make(encoder_grid=grid) as backend, spadecli.open_backend(tmp_path / "w.safetensors", "cpu") as reference:
        for ours, theirs in zip(backend.encode(photos), reference.encode(photos), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)


WRONG = {
    "labels of another type": (some_labels(1).astype(np.int64), None, some_z(1), "int64"),
    "labels without a batch": (some_labels(1)[0], None, some_z(1), r"\[M,H,W\]"),
    "labels outside the space": (np.full((1, 32, 64), 3, np.uint8), None, some_z(1), r"3 \(2048 pixels\)"),
    "edges of another shape": (some_labels(1), np.zeros((1, 32, 32), np.uint8), some_z(1), "edges"),
    "edges beyond one": (some_labels(1), np.full((1, 32, 64), 2, np.uint8), some_z(1), "0 or 1"),
    "no z": (some_labels(1), None, None, "z is None"),
    "z of another length": (some_labels(1), None, np.zeros((1, 6), np.float32), r"\[M·S,5\]"),
    "z of another type": (some_labels(1), None, np.zeros((1, 5)), "float64"),
    "z that does not divide": (some_labels(2), None, some_z(3), "M = 2"),
    "z without rows": (some_labels(1), None, some_z(0), "z has no rows"),
    "no masks": (some_labels(0), None, some_z(0), r"\[0, 32, 64\]: no masks"),
    "z that is not a number": (some_labels(1), None, np.full((3, 5), np.nan, np.float32), "not finite, in 3 of 3 rows"),
    "z without end": (some_labels(2), None, np.diag([1, 2, 3, np.inf, 5]).astype(np.float32)[2:4], "1 of 2 rows: 1"),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_wrong_inputs_are_refused_with_what_was_found(make, case):
    labels, edges, z, words = case
    with pytest.raises(UserError, match=words):
        make(instances=True).run(labels, edges, z)


def test_edges_without_an_edge_channel_are_refused(make):
    with pytest.raises(UserError, match="no edge channel"):
        make().run(some_labels(1), np.zeros((1, 32, 64), np.uint8), some_z(1))


def test_what_cannot_be_opened_is_named(tmp_path):
    for name, content, words in [
        ("w.pth", b"x", "must be converted first"),
        ("w.bin", b"x", "unknown kind"),
        ("w.safetensors", b"torn", "not a readable"),
        ("w.onnx", b"torn", "not a readable"),
        ("w.engine", b"torn", "side file w.engine.json is missing"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=words):
            spadecli.open_backend(tmp_path / name)
    with pytest.raises(UserError, match="no such"):
        spadecli.open_backend(tmp_path / "missing.safetensors")


def test_devices_are_checked(tmp_path):
    path = torch_weights(tmp_path, Architecture(size=(32, 32), ngf=2, z_dim=5, hidden=4), LABELS)
    with pytest.raises(BackendUnavailable, match="cuda:9"):
        spadecli.open_backend(path, device="cuda:9")
    with pytest.raises(UserError, match="expected auto"):
        spadecli.open_backend(path, device="gpu")
    with pytest.raises(UserError, match="tf32 is for CUDA GPUs"):
        spadecli.open_backend(path, device="cpu", precision="tf32")


@pytest.mark.parametrize("form", ["plain", "fast"])
def test_too_little_device_memory_is_a_memory_error(tmp_path, monkeypatch, form):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    arch = Architecture(**SMALL, latent="noise")
    with spadecli.open_backend(torch_weights(tmp_path, arch, LABELS), device="cpu", form=form) as backend:
        monkeypatch.setattr(Generator, "forward", full)
        monkeypatch.setattr(FastGenerator, "__call__", full)
        with pytest.raises(MemoryError, match="CUDA out of memory"):
            backend.run(some_labels(1), None, some_z(1))


def test_weights_round_trip_and_name_every_misfit(tmp_path):
    from safetensors.torch import load_file, save_file

    arch = Architecture(size=(32, 32), ngf=2, z_dim=5, hidden=4, latent="encoder")
    path = torch_weights(tmp_path, arch, LABELS)
    card, generator, encoder = load_weights(path)
    assert card == read_card(path)
    assert card.labels == LABELS
    assert encoder is not None
    tensors = load_file(path)
    assert all(np.array_equal(tensors[f"generator.{n}"], v) for n, v in folded_state_dict(generator).items())
    del tensors["generator.fc.bias"]
    tensors["generator.extra"] = tensors["encoder.fc_mu.bias"]
    tensors["encoder.fc_mu.bias"] = tensors["encoder.fc_mu.bias"][:2].clone()
    save_file(tensors, path, metadata={"card": card.model_dump_json()})
    with pytest.raises(UserError) as e:
        load_weights(path)
    assert set(e.value.problems) == {
        "generator.fc.bias: missing",
        "generator.extra: left over",
        "encoder.fc_mu.bias: shape [2], expected [5]",
    }


def test_forms_agree_and_precision_does_not(tmp_path):
    arch = Architecture(**{**SMALL, "size": FORM_SIZE}, latent="noise")
    path, labels, z = torch_weights(tmp_path, arch, LABELS), some_labels(2, FORM_SIZE), some_z(4)
    images = {}
    for form, precision in [("plain", "fp32"), ("fast", "fp32"), ("auto", "fp32"), ("plain", "bf16"), ("auto", "bf16")]:
        with spadecli.open_backend(path, "cpu", form=form, precision=precision) as backend:
            images[form, precision] = backend.run(labels, None, z)
    np.testing.assert_allclose(images["fast", "fp32"], images["plain", "fp32"], atol=5e-5)
    np.testing.assert_array_equal(images["auto", "fp32"], images["fast", "fp32"])
    for form in ("plain", "auto"):
        difference = np.abs(images[form, "bf16"] - images["plain", "fp32"]).mean()
        assert 1e-5 < difference < 0.1


def test_what_has_no_fast_form_is_plain_or_refused(tmp_path):
    path = torch_weights(tmp_path, Architecture(**SMALL, latent="noise", conditioning="concat"), LABELS)
    with spadecli.open_backend(path, "cpu") as backend:
        assert backend.form == "plain"
    with pytest.raises(UserError, match="no fast form for conditioning"):
        spadecli.open_backend(path, "cpu", form="fast")


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu(tmp_path):
    path = torch_weights(tmp_path, Architecture(size=(64, 64), ngf=8, z_dim=5, hidden=16, latent="noise"), LABELS)
    labels, z = some_labels(2, (64, 64)), some_z(4)
    with spadecli.open_backend(path, "cpu") as cpu, spadecli.open_backend(path, "cuda") as cuda:
        np.testing.assert_allclose(cpu.run(labels, None, z), cuda.run(labels, None, z), atol=2e-3)


def test_a_closed_backend_says_so(make):
    backend = make()
    backend.close()
    with pytest.raises(UserError, match="closed"):
        backend.run(some_labels(1), None, some_z(1))
