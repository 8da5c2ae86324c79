"""Instance maps from COCO's polygons and run lengths."""

import json

import numpy as np
import pytest
from conftest import shared
from PIL import Image

from spadecli.core.errors import UserError
from spadecli.core.labelspace import LabelSpace
from spadecli.core.recipe_files import find_recipe, load_recipe
from spadecli.data.coco import CocoInstances, decompress, polygons_mask, run_lengths_mask
from spadecli.data.edges import instance_edges
from spadecli.data.masks import read_instances, read_mask

LABELS = LabelSpace(name="small", classes=("person", "car", "grass"))
CATEGORIES = [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}, {"id": 90, "name": "toothbrush"}]


def runs_of(mask: np.ndarray) -> list[int]:
    flat = np.concatenate([[0], mask.T.ravel(), [1 - mask.T.ravel()[-1]]]).astype(int)
    ends = np.flatnonzero(np.diff(flat))
    return np.diff(np.concatenate([[0], ends])).tolist()


def compress(runs: list[int]) -> str:
    """COCO's text form, written from its description: the inverse of what is tested."""
    text = ""
    for i, run in enumerate(runs):
        value = run - runs[i - 2] if i > 2 else run
        while True:
            bits = value & 31
            value >>= 5
            last = value == (-1 if bits & 16 else 0)
            text += chr(48 + bits + (0 if last else 32))
            if last:
                break
    return text


def annotated(path, *annotations, **size):
    tree = {
        "images": [{"id": 7, "file_name": "a.jpg", **size}, {"id": 8, "file_name": "empty.jpg"}],
        "categories": CATEGORIES,
        "annotations": [
            {"image_id": 7, "category_id": c, "segmentation": s, "area": a, "iscrowd": 0} for c, s, a in annotations
        ],
    }
    path.write_text(json.dumps(tree))
    return CocoInstances(path, LABELS)


def test_run_lengths_go_down_the_columns():
    assert run_lengths_mask([1, 2, 3], (2, 3)).tolist() == [[False, True, False], [True, False, False]]


@pytest.mark.parametrize("seed", range(5))
def test_run_lengths_in_both_forms_give_the_mask_back(seed):
    rng = np.random.default_rng(seed)
    mask = np.kron(rng.integers(0, 2, (7, 5)), np.ones((1 + 40 * (seed % 2), 9), int))
    runs = runs_of(mask)
    assert (run_lengths_mask(runs, mask.shape) == mask).all()
    assert decompress(compress(runs)) == runs


def test_text_form_by_hand():
    # 5 = "5"; 40 = 8 + 32·1: "X1"; 3 = "3"; then 38 = 40 - 2: -2 is 30 with the sign bit, "N"
    assert decompress("5X13N") == [5, 40, 3, 38]


def test_polygons_cover_their_inside_and_join():
    mask = polygons_mask([[2, 1, 6, 1, 6, 4, 2, 4], [0, 8, 3, 8, 3, 10, 0, 10]], (12, 9))
    assert mask[1:4, 2:6].all()
    assert mask[8:10, 0:3].all()
    assert not mask[5:8].any()
    assert not mask[:, 7:].any()


def test_things_lie_over_regions_and_keep_to_their_class(tmp_path):
    codes = np.full((8, 8), 2, np.uint8)
    codes[2:6, 1:7] = 0
    rectangle = [[0, 0, 4, 0, 4, 8, 0, 8]]
    right = np.zeros((8, 8), int)
    right[:, 5:] = 1
    source = annotated(
        tmp_path / "i.json",
        (1, rectangle, 12.0),
        (1, {"size": [8, 8], "counts": compress(runs_of(right))}, 10.0),
        (90, [[0, 0, 8, 0, 8, 8, 0, 8]], 99.0),
    )
    ids = source.instance_map("sub/a", codes)
    assert ids.dtype == np.uint32
    assert (ids[codes == 2] == 2).all()
    inside = ids[2:6, 1:7]
    assert set(np.unique(inside[:, :3])) == {256}
    assert set(np.unique(inside[:, 4:])) == {257}


def test_the_smaller_of_two_things_is_on_top(tmp_path):
    codes = np.zeros((8, 8), np.uint8)
    whole, part = [[0, 0, 8, 0, 8, 8, 0, 8]], [[2, 2, 4, 2, 4, 4, 2, 4]]
    for order in ((whole, part), (part, whole)):
        things = [(1, s, 64.0 if s is whole else 4.0) for s in order]
        ids = annotated(tmp_path / "i.json", *things).instance_map("a", codes)
        assert ids[3, 3] == 257
        assert ids[7, 7] == 256


def test_an_image_without_things_has_its_regions(tmp_path):
    codes = np.array([[0, 1], [2, 2]], np.uint8)
    assert (annotated(tmp_path / "i.json").instance_map("empty", codes) == codes).all()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [9, 8], "counts": [72]}, "run lengths for"),
        ({"size": [8, 8], "counts": [63]}, "add up to 63"),
        ([[1, 2, 3]], "bad segmentation"),
        ({"counts": [64]}, "bad segmentation"),
    ],
)
def test_annotations_that_do_not_fit_are_named(tmp_path, segmentation, message):
    source = annotated(tmp_path / "i.json", (1, segmentation, 1.0))
    with pytest.raises(UserError, match=message) as e:
        source.instance_map("a", np.zeros((8, 8), np.uint8))
    assert "image a" in e.value.message


def test_annotations_are_resized_with_their_image_and_cuts_are_refused(tmp_path):
    half = np.zeros((8, 16), int)
    half[:, 8:] = 1
    for segmentation in ([[8, 0, 15, 0, 15, 7, 8, 7]], {"size": [8, 16], "counts": compress(runs_of(half))}):
        source = annotated(tmp_path / "i.json", (1, segmentation, 64.0), height=8, width=16)
        for size in ((8, 16), (4, 8), (24, 48)):
            ids = source.instance_map("a", np.zeros(size, np.uint8))
            assert (ids[:, size[1] // 2 :] == 256).all(), size
            assert (ids[:, : size[1] // 2] == 0).all(), size
        with pytest.raises(UserError, match="image a is 8x16, its label map 8x8"):
            source.instance_map("a", np.zeros((8, 8), np.uint8))


def test_unknown_images_are_named(tmp_path):
    with pytest.raises(UserError, match="no image is called b"):
        annotated(tmp_path / "i.json").instance_map("b", np.zeros((2, 2), np.uint8))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"images": []}', '{"images": [], "categories": [], "annotations": []}']
)
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "i.json").write_text(text)
    with pytest.raises(UserError, match=r"i\.json"):
        CocoInstances(tmp_path / "i.json", LABELS)


def test_maps_drawn_from_the_reference_s_instances_have_its_edges(tmp_path):
    """Their instance maps, given back as run lengths, are drawn anew from the label maps."""
    root = shared("data", "coco_sample")
    labels = load_recipe(find_recipe("coco-stuff")).recipe.labels
    mask_path = root / "train_label" / "000000017914.png"
    codes = read_mask(mask_path, labels)
    theirs = read_instances(root / "train_inst" / mask_path.name)
    annotations = []
    for number, category in ((0, 17), (1, 1), (2, 73), (3, 65)):  # cat, person, laptop, bed
        region = (theirs == number).astype(int)
        text = compress(runs_of(region))
        annotations.append((category, {"size": list(codes.shape), "counts": text}, float(region.sum())))
    tree = {
        "images": [{"id": 1, "file_name": mask_path.with_suffix(".jpg").name}],
        "categories": [{"id": i + 1, "name": c.name} for i, c in enumerate(labels.classes[:90])],
        "annotations": [{"image_id": 1, "category_id": c, "segmentation": s, "area": a} for c, s, a in annotations],
    }
    (tmp_path / "i.json").write_text(json.dumps(tree))
    ours = CocoInstances(tmp_path / "i.json", labels).instance_map(mask_path.stem, codes)
    same = instance_edges(ours) == instance_edges(theirs)
    assert same.mean() > 0.99
    for number in range(4):
        region = ours == 256 + number
        assert np.unique(codes[region]).size == 1
    assert Image.open(mask_path).size == ours.shape[::-1]
