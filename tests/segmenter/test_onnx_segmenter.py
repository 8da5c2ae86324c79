import numpy as np
import pytest

from spadecli.core.errors import UserError
from spadecli.core.labelspace import LabelSpace
from spadecli.segmenter.registry import open_segmenter

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

LABELS = LabelSpace(name="rgb", classes=("red", "green", "blue"))
IMAGES = np.random.RandomState(0).randint(0, 256, (3, 16, 24, 3)).astype(np.uint8)


def model(path, shape=("N", 3, "H", "W"), dtype=onnx.TensorProto.FLOAT, classes=3, features=False):
    """A graph whose logits are the channels themselves, so the strongest colour wins."""
    make = onnx.helper
    weight = make.make_tensor("w", dtype, (classes, 3, 1, 1), np.eye(classes, 3).astype(np.float32).ravel())
    nodes = [make.make_node("Conv", ["x", "w"], ["logits"])]
    outputs = [make.make_tensor_value_info("logits", dtype, (shape[0], classes, *shape[2:]))]
    if features:
        nodes.append(make.make_node("GlobalAveragePool", ["x"], ["features"]))
        outputs.append(make.make_tensor_value_info("features", dtype, (shape[0], 3, 1, 1)))
    inputs = [make.make_tensor_value_info("x", dtype, shape)]
    graph = make.make_graph(nodes, "segmenter", inputs, outputs, [weight])
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=9), path)
    return path


def sidecar(path, text="[classes]\n0 = 'red'\n1 = 'green'\n2 = 'blue'\n"):
    path.with_suffix(".toml").write_text(text)
    return path


def test_the_strongest_colour_wins(tmp_path):
    segmenter = open_segmenter(sidecar(model(tmp_path / "m.onnx", features=True)), "cpu", labels=LABELS)
    assert (segmenter.predict(IMAGES) == IMAGES.argmax(3)).all()
    assert np.allclose(segmenter.features(IMAGES), IMAGES.mean((1, 2)) / 255, atol=1e-6)
    assert (segmenter.name, segmenter.labels) == ("m", LABELS)


def test_normalization_is_that_of_the_sidecar(tmp_path):
    text = 'names = ["red", "green", "blue"]\n[input]\nmean = [1, 0, 0]\nstd = [0.5, 1, 1]\n'
    segmenter = open_segmenter(sidecar(model(tmp_path / "m.onnx"), text), "cpu", labels=LABELS)
    x = IMAGES / np.float32(255)
    expected = np.stack([(x[..., 0] - 1) / 0.5, x[..., 1], x[..., 2]], 3).argmax(3)
    assert (segmenter.predict(IMAGES) == expected).all()
    swapped = sidecar(model(tmp_path / "bgr.onnx"), 'names = ["blue", "green", "red"]\n[input]\nbgr = true\n')
    assert (open_segmenter(swapped, "cpu", labels=LABELS).predict(IMAGES) == IMAGES.argmax(3)).mean() > 0.98  # ties


def test_fixed_sizes_and_batches(tmp_path):
    segmenter = open_segmenter(sidecar(model(tmp_path / "m.onnx", (2, 3, 32, 48))), "cpu", labels=LABELS)
    found = segmenter.predict(IMAGES)
    assert found.shape == (3, 16, 24)
    assert (found == IMAGES.argmax(3)).mean() > 0.8  # up and down again
    segmenter = open_segmenter(sidecar(model(tmp_path / "h.onnx", dtype=onnx.TensorProto.FLOAT16)), labels=LABELS)
    assert (segmenter.predict(IMAGES) == IMAGES.argmax(3)).mean() > 0.99


def test_what_breaks_the_contract_is_named(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"no")
    with pytest.raises(UserError, match="not an ONNX file"):
        open_segmenter(tmp_path / "x.onnx", "cpu", labels=LABELS)
    grey = model(tmp_path / "grey.onnx", ("N", 3, "H"))
    with pytest.raises(UserError, match=r"grey\.onnx"):
        open_segmenter(grey, "cpu", labels=LABELS)
    with pytest.raises(UserError, match="no such segmenter"):
        open_segmenter(tmp_path / "none.onnx", "cpu", labels=LABELS)


def test_classes_that_do_not_fit(tmp_path):
    path = sidecar(model(tmp_path / "m.onnx", classes=2))
    with pytest.raises(UserError, match="do not fit") as e:
        open_segmenter(path, "cpu", labels=LABELS)
    assert "'2' is not a class of the model" in e.value.problems[0]
    sidecar(path, 'names = ["red"]')
    with pytest.raises(UserError, match="1 names, but"):
        open_segmenter(path, "cpu", labels=LABELS)


def test_without_an_output_of_features(tmp_path):
    with pytest.raises(UserError, match="has no output 'features'"):
        open_segmenter(sidecar(model(tmp_path / "m.onnx")), "cpu", labels=LABELS).features(IMAGES)


def test_the_gpu_that_was_asked_for_is_the_session_s(tmp_path, monkeypatch):
    import onnxruntime

    found, session = [], onnxruntime.InferenceSession

    def on_the_cpu(file, providers):
        found.append(providers)
        return session(file, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", on_the_cpu)
    available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    open_segmenter(sidecar(model(tmp_path / "m.onnx")), "cuda:3", labels=LABELS)
    ((cuda, cpu),) = found
    assert (cuda[0], cuda[1]["device_id"], cpu) == ("CUDAExecutionProvider", "3", "CPUExecutionProvider")
