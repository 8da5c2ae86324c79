import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from spadecli.core.errors import UserError
from spadecli.core.labelspace import LabelSpace
from spadecli.segmenter.registry import open_segmenter

transformers = pytest.importorskip("transformers")

LABELS = LabelSpace(name="ours", classes=("void", "car", "sky"), unknown="void")
IMAGES = np.random.RandomState(0).randint(0, 256, (2, 64, 96, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small SegFormer with random weights, saved as the library saves it."""
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        id2label={0: "sky", 1: "road", 2: "Car"},
        label2id={"sky": 0, "road": 1, "Car": 2},
    )
    path = tmp_path_factory.mktemp("hub") / "tiny-segformer"
    transformers.SegformerForSemanticSegmentation(config).eval().save_pretrained(path)
    return path


def test_logits_are_upsampled_before_the_best_class_is_taken(folder):
    segmenter = open_segmenter(folder, "cpu", labels=LABELS)
    model = transformers.SegformerForSemanticSegmentation.from_pretrained(folder).eval()
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    pixels = ((torch.from_numpy(IMAGES).float() / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.inference_mode():
        logits = model(pixels).logits
    assert logits.shape[-2:] == (16, 24)
    theirs = F.interpolate(logits, size=(64, 96), mode="bilinear", align_corners=False).argmax(1).numpy()
    found = segmenter.predict(IMAGES)
    assert found.dtype == np.uint8
    assert (found == np.array([2, 0, 1])[theirs]).mean() > 0.999
    assert segmenter.features(IMAGES).shape == (2, 16)
    assert (segmenter.name, len(segmenter.sha256)) == ("tiny-segformer", 64)


def test_preprocessing_is_read_from_the_folder(folder, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    settings = {"do_resize": True, "size": {"height": 32, "width": 32}, "do_normalize": False}
    (copy / "preprocessor_config.json").write_text(json.dumps(settings))
    segmenter = open_segmenter(copy, "cpu", labels=LABELS)
    assert segmenter._size == (32, 32)
    assert segmenter._mean == (0.0, 0.0, 0.0)
    assert segmenter.predict(IMAGES).shape == (2, 64, 96)


def test_class_mapping_and_its_errors(folder, tmp_path):
    path = tmp_path / "map.toml"
    path.write_text('[classes]\nroad = "car"\n"0" = "sky"\n')
    table = open_segmenter(folder, "cpu", path, LABELS)._channels
    assert table.tolist() == [2, 1, 0]
    path.write_text('[classes]\nrood = "car"\n')
    with pytest.raises(UserError, match=r"map\.toml") as e:
        open_segmenter(folder, "cpu", path, LABELS)
    assert "did you mean 'road'" in e.value.problems[0]


def test_a_folder_that_is_no_segmentation_model(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="semantic segmentation"):
        open_segmenter(tmp_path, "cpu", labels=LABELS)


def test_a_hub_name_that_cannot_be_fetched(monkeypatch):
    import huggingface_hub

    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(UserError, match="could not be fetched"):
        open_segmenter("someone/model", "cpu", labels=LABELS)
