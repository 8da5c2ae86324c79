import sys

import numpy as np
import pytest
import torch
from PIL import Image

from spadecli.core.errors import BackendUnavailable, UserError
from spadecli.core.labelspace import LabelSpace
from spadecli.segmenter.card import SegmenterArchitecture, SegmenterCard
from spadecli.segmenter.file import save_segmenter
from spadecli.segmenter.network import SegmentationNet
from spadecli.segmenter.registry import open_segmenter

LABELS = LabelSpace(name="ours", classes=("sky", "car", "void"), unknown="void")
IMAGES = np.random.RandomState(0).randint(0, 256, (5, 40, 56, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    arch = SegmenterArchitecture(size=(48, 64), width=4)
    net = SegmentationNet(arch, 3)
    path = tmp_path_factory.mktemp("weights") / "blocks.safetensors"
    save_segmenter(path, SegmenterCard(name="blocks", architecture=arch, labels=LABELS), net.state_dict())
    return path


def test_our_own_weights_answer_with_channels_and_features(weights):
    segmenter = open_segmenter(weights, "cpu")
    found, features = segmenter.predict(IMAGES), segmenter.features(IMAGES)
    assert (found.dtype, found.shape) == (np.uint8, (5, 40, 56))
    assert (features.dtype, features.shape) == (np.float32, (5, 32))
    assert np.isfinite(features).all()
    assert found.max() < 2  # the unknown class is never the answer
    assert (segmenter.name, len(segmenter.sha256), segmenter.labels) == ("blocks", 64, LABELS)


def test_an_answer_does_not_depend_on_the_batch(weights):
    segmenter = open_segmenter(weights, "cpu")
    assert (segmenter.predict(IMAGES)[3] == segmenter.predict(IMAGES[3:4])[0]).all()
    assert (segmenter.features(IMAGES)[3] == segmenter.features(IMAGES[3:4])[0]).all()
    assert segmenter.predict(IMAGES[:0]).shape == (0, 40, 56)
    assert segmenter.features(IMAGES[:0]).shape == (0, 32)


def test_pictures_of_any_size_are_segmented_at_the_cards_size(weights):
    segmenter = open_segmenter(weights, "cpu")
    small = IMAGES[:1]
    large = small.repeat(3, 1).repeat(3, 2)
    at_large = segmenter.predict(large)
    assert at_large.shape == (1, 120, 168)
    assert (at_large[:, 1::3, 1::3] == segmenter.predict(small)).mean() > 0.95
    assert segmenter.predict(IMAGES[:, :1, :1]).shape == (5, 1, 1)


@pytest.mark.parametrize("images", [IMAGES[0], IMAGES.astype(float), IMAGES[..., :1]])
def test_what_are_no_pictures_is_refused(weights, images):
    with pytest.raises(UserError, match="expected uint8"):
        open_segmenter(weights, "cpu").predict(images)


def test_wrong_sources_are_named(weights, tmp_path):
    with pytest.raises(UserError, match="no such segmenter"):
        open_segmenter(tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="no such segmenter file or folder"):
        open_segmenter(tmp_path / "none")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(UserError, match="unknown kind"):
        open_segmenter(tmp_path / "x.txt")
    (tmp_path / "broken.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="not a readable"):
        open_segmenter(tmp_path / "broken.safetensors")
    with pytest.raises(UserError, match="predicts the classes in its card"):
        open_segmenter(weights, mapping=tmp_path / "map.toml")


def test_damaged_weights_list_what_is_missing(tmp_path):
    arch = SegmenterArchitecture(size=(48, 64), width=4)
    state = SegmentationNet(arch, 3).state_dict()
    del state["head.bias"]
    path = tmp_path / "x.safetensors"
    save_segmenter(path, SegmenterCard(name="x", architecture=arch, labels=LABELS), state)
    with pytest.raises(UserError, match="do not fit the card") as e:
        open_segmenter(path)
    assert e.value.problems == ("segmenter.head.bias: missing",)


def test_a_folder_of_predicted_label_maps(tmp_path):
    (tmp_path / "maps" / "a").mkdir(parents=True)
    codes = np.array([[0, 1], [2, 1]], np.uint8)
    Image.fromarray(codes).save(tmp_path / "maps" / "a" / "one.png")
    np.save(tmp_path / "maps" / "two.npy", codes.T)
    predictions = open_segmenter(tmp_path / "maps", labels=LABELS)
    found = predictions.predict_named(["two", "a/one"], (4, 4))
    assert (found[1] == codes.repeat(2, 0).repeat(2, 1)).all()
    assert (found[0, ::2, ::2] == codes.T).all()
    with pytest.raises(UserError, match="for 1 of 2") as e:
        predictions.predict_named(["two", "three"], (4, 4))
    assert e.value.problems == ("three",)
    assert str(tmp_path / "maps" / "three.png") in (e.value.hint or "")


def test_predicted_label_maps_need_a_label_space_and_its_values(tmp_path):
    folder = tmp_path / "maps"
    folder.mkdir()
    with pytest.raises(UserError, match="the label space of these label maps is not known"):
        open_segmenter(folder)
    with pytest.raises(UserError, match="no label maps"):
        open_segmenter(folder, labels=LABELS)
    Image.fromarray(np.full((2, 2), 77, np.uint8)).save(folder / "one.png")
    with pytest.raises(UserError, match="cannot be used") as e:
        open_segmenter(folder, labels=LABELS).predict_named(["one"], (2, 2))
    assert "77" in e.value.problems[0]
    (tmp_path / "map.toml").write_text('recipe = "facades"')
    assert open_segmenter(folder, mapping=tmp_path / "map.toml").labels.name == "facades"


def test_a_missing_package_is_named_with_the_line_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "transformers", None)
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(BackendUnavailable, match="onnxruntime is not installed") as e:
        open_segmenter(tmp_path / "model.onnx", labels=LABELS)
    assert "pip install" in e.value.hint
    with pytest.raises(BackendUnavailable, match="transformers is not installed") as e:
        open_segmenter("nvidia/segformer-b0", labels=LABELS)
    assert e.value.hint == 'pip install "spadecli[segmenter]"'
