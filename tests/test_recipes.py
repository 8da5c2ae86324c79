"""Every shipped recipe is valid, opens with the line that runs it, and reads its data as their owners pack them."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from fake_backend import Listener
from files import save
from PIL import Image

from spadecli.commands.pack.command import PackOptions, pack
from spadecli.core.errors import UserError
from spadecli.core.recipe import Recipe
from spadecli.core.recipe_files import load_recipe, shipped_recipes
from spadecli.core.report import Silent
from spadecli.data.packed import Packed
from spadecli.training.memory import estimate_memory
from spadecli.training.setup import count_parameters

NAMES = sorted(shipped_recipes())
VARIANTS = ("coco-stuff", "ade20k", "ade20k-outdoor", "cityscapes")


class Quiet(Silent):
    def warn(self, text):
        pass


def recipe_of(name: str, *overrides: str) -> Recipe:
    return load_recipe(shipped_recipes()[name], overrides).recipe


def test_all_are_shipped():
    wanted = {
        *VARIANTS,
        *(f"{n}-vae" for n in VARIANTS),
        "cityscapes-trainid",
        "camvid",
        "facades",
        "landscapes",
        "custom",
    }
    assert set(NAMES) == wanted


@pytest.mark.parametrize("name", NAMES)
def test_is_valid_and_opens_with_the_line_that_runs_it(name):
    assert recipe_of(name).name == name
    text = (ROOT / "recipes" / f"{name}.toml").read_text()
    assert text.splitlines()[0] == f"# spade train {name}"
    assert "spade pack --recipe " in text


@pytest.mark.parametrize("name", NAMES)
def test_every_pack_line_in_its_head_names_a_recipe_and_real_options(name):
    from typer.testing import CliRunner

    from spadecli.cli.app import app

    head = "\n".join(
        line.removeprefix("#")
        for line in (ROOT / "recipes" / f"{name}.toml").read_text().split("\nname")[0].split("\n")
    )
    options = CliRunner().invoke(app, ["pack", "--help"], env={"COLUMNS": "200"}).stdout
    lines = [line.strip() for line in head.replace("\\\n", "").split("\n") if line.strip().startswith("spade pack")]
    assert lines
    for line in lines:
        words = shlex.split(line)
        assert words[words.index("--recipe") + 1] in NAMES
        assert all(word in options for word in words if word.startswith("-"))


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("coco-stuff", 184),
        ("ade20k", 151),
        ("ade20k-outdoor", 151),
        ("cityscapes", 36),
        ("cityscapes-trainid", 21),
        ("camvid", 12),
        ("facades", 13),
        ("landscapes", 12),
    ],
)
def test_channels_of_the_semantic_map(name, channels):
    assert recipe_of(name).labels.semantic_channels == channels


@pytest.mark.parametrize("name", VARIANTS)
def test_settings_of_the_paper(name):
    recipe = recipe_of(name)
    train = recipe.train
    assert (train.batch, train.lr_g, train.lr_d, train.beta1, train.beta2) == (32, 1e-4, 4e-4, 0, 0.9)
    assert (train.epochs, train.decay_from) == ((100, 1) if name == "coco-stuff" else (200, 0.5))
    city = name == "cityscapes"
    assert recipe.model.size == ((256, 512) if city else (256, 256))
    assert recipe.data.load_size == ((256, 512) if city else (286, 286))
    assert recipe.model.upsampling == ("more" if city else "normal")
    assert recipe.model.latent == "map"
    vae = recipe_of(f"{name}-vae")
    assert vae.model == recipe.model.model_copy(update={"latent": "encoder"})
    same = ("name", "description", "model")
    assert vae.model_dump(exclude=set(same)) == recipe.model_dump(exclude=set(same))


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("coco-stuff", 97.48),
        ("ade20k", 96.49),
        ("cityscapes", 93.05),
        ("coco-stuff-vae", 112.63),
        ("ade20k-vae", 111.94),
        ("cityscapes-vae", 101.14),
    ],
)
def test_parameters_of_the_published_generators(name, millions):
    assert round(count_parameters(recipe_of(name))["generator"] / 1e6, 2) == millions


def test_memory_grows_with_the_batch_and_halves_with_bf16():
    one, two = (estimate_memory(recipe_of("facades", f"train.batch={n}", "train.precision=fp32")) for n in (1, 2))
    half = estimate_memory(recipe_of("facades", "train.batch=2", "train.precision=bf16"))
    assert one.weights == two.weights
    assert one.optimizer == 2 * one.gradients == 8 * sum(count_parameters(recipe_of("facades")).values())
    assert 1.8 < two.activations / one.activations <= 2
    assert 0.45 < half.activations / two.activations < 0.75
    assert one.total == one.weights + one.gradients + one.optimizer + one.activations


def test_label_values_of_the_owners():
    city = recipe_of("cityscapes").labels
    train = recipe_of("cityscapes-trainid").labels
    names = [c.name for c in city.classes]
    assert [c.name for c in train.classes[:19]] == [n for n in names if n in {c.name for c in train.classes}]
    assert (names[7], names[26], names[33], names[34]) == ("road", "car", "bicycle", "license plate")
    assert [city.classes[c.values[0]].name for c in train.classes[:19]] == [c.name for c in train.classes[:19]]
    assert train.file_values == city.file_values == tuple(range(35))
    assert train.unknown_channel == 19
    coco = recipe_of("coco-stuff").labels
    assert [coco.classes[i].name for i in (0, 71, 90, 91, 181)] == [
        "person",
        "tv",
        "hair brush",
        "banner",
        "wood",
    ]
    ade = recipe_of("ade20k").labels
    assert [ade.classes[i].name for i in (0, 1, 13, 150)] == ["unknown", "wall", "person", "flag"]
    assert 255 not in ade.file_values


COCO_THINGS = """person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant stop_sign
parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe backpack umbrella handbag tie suitcase
frisbee skis snowboard sports_ball kite baseball_bat baseball_glove skateboard surfboard tennis_racket bottle wine_glass
cup fork knife spoon bowl banana apple sandwich orange broccoli carrot hot_dog pizza donut cake chair couch potted_plant
bed dining_table toilet tv laptop mouse remote keyboard cell_phone microwave oven toaster sink refrigerator book clock
vase scissors teddy_bear hair_drier toothbrush"""


def test_all_things_of_coco_s_annotation_files_are_classes():
    things = [name.replace("_", " ") for name in COCO_THINGS.split()]
    names = [c.name for c in recipe_of("coco-stuff").labels.classes]
    assert len(things) == 80
    assert set(things) <= set(names[:91])


@pytest.mark.parametrize("name", NAMES)
def test_validation_is_off_but_fits_the_data(name):
    validation = recipe_of(name).validation
    assert validation.every == 0
    assert validation.extractor == validation.inception == validation.segmenter == ""


def photo(path: Path) -> None:
    save(path, np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))


def mask(path: Path, *values: int) -> None:
    save(path, np.resize(np.array(values, np.uint8), (32, 32)))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


@pytest.mark.parametrize("name", ["cityscapes", "cityscapes-vae", "cityscapes-trainid"])
def test_cityscapes_as_downloaded(here, name):
    ids = np.resize(np.array([7, 26001, 26002, 33], np.uint16), (32, 64))
    for city, number in (("aachen", "000000_000019"), ("ulm", "000001_000019")):
        stem = f"{city}/{city}_{number}"
        save(
            here / f"cityscapes/leftImg8bit/train/{stem}_leftImg8bit.png",
            np.zeros((32, 64, 3), np.uint8),
        )
        folder = here / "cityscapes/gtFine/train"
        save(folder / f"{stem}_gtFine_labelIds.png", np.resize(np.array([7, 26, 26, 33], np.uint8), (32, 64)))
        save(folder / f"{stem}_gtFine_color.png", np.zeros((32, 64, 4), np.uint8))
        (folder / f"{stem}_gtFine_polygons.json").write_text("{}")
        (folder / city).mkdir(exist_ok=True)
        Image.fromarray(ids).save(folder / f"{stem}_gtFine_instanceIds.png")
    result = pack(PackOptions(recipe=name), Quiet())
    packed = Packed(result.path)
    assert packed.names == ["aachen/aachen_000000_000019", "ulm/ulm_000001_000019"]
    assert packed.size == (256, 512)
    codes, instances, _ = packed.get(0)
    assert set(np.unique(instances)) == {7, 26001, 26002, 33}
    labels = recipe_of(name).labels
    assert [labels.classes[labels.code_to_channel[c]].name for c in np.unique(codes)] == ["road", "car", "bicycle"]


def test_the_validation_part_takes_the_recipe_s_suffixes(here):
    for part, suffix in (
        ("leftImg8bit", "leftImg8bit"),
        ("gtFine", "gtFine_labelIds"),
        ("gtFine", "gtFine_instanceIds"),
    ):
        pixels = np.zeros((32, 64, 3) if part == "leftImg8bit" else (32, 64), np.uint8)
        save(here / f"cityscapes/{part}/val/lindau/lindau_000000_000019_{suffix}.png", pixels)
    photos, masks = here / "cityscapes/leftImg8bit/val", here / "cityscapes/gtFine/val"
    result = pack(PackOptions(photos, masks, masks, recipe="cityscapes", out=here / "val.h5"), Quiet())
    assert Packed(result.path).names == ["lindau/lindau_000000_000019"]
    assert result.has_instances
    with pytest.raises(UserError) as e:
        pack(PackOptions(photos, masks, recipe="cityscapes", out=here / "o.h5", photo_suffix=""), Quiet())
    assert "has the name" in e.value.message


def ade_tree(root: Path) -> None:
    scenes = {"ADE_train_00000001": "street", "ADE_train_00000002": "bedroom", "ADE_train_00000003": "field_wild"}
    for name in scenes:
        photo(root / f"images/training/{name}.jpg")
        mask(root / f"annotations/training/{name}.png", 0, 1, 150)
    (root / "sceneCategories.txt").write_text("".join(f"{k} {v}\n" for k, v in scenes.items()))
    (root / "objectInfo150.txt").write_text("Idx\tRatio\n")


@pytest.mark.parametrize(("name", "pairs"), [("ade20k", 3), ("ade20k-outdoor", 2), ("ade20k-outdoor-vae", 2)])
def test_ade20k_as_downloaded(here, name, pairs):
    ade_tree(here / "ADEChallengeData2016")
    result = pack(PackOptions(recipe=name), Quiet())
    assert result.pairs == pairs
    assert [c.name for c in result.classes if c.pixels] == ["unknown", "wall", "flag"]


def test_photographs_that_the_scene_file_does_not_list_are_told(here):
    ade_tree(here / "ADEChallengeData2016")
    listed = here / "ADEChallengeData2016/sceneCategories.txt"
    listed.write_text(listed.read_text().partition("\n")[2])
    report = Listener()
    assert pack(PackOptions(recipe="ade20k-outdoor"), report).pairs == 1
    assert any("1 of 3 photographs show data.scenes" in text for text in report.notes)
    assert any("does not list 1 photograph, left out: ADE_train_00000001.jpg" in text for text in report.warnings)


def test_ade20k_refuses_255(here):
    ade_tree(here / "ADEChallengeData2016")
    mask(here / "ADEChallengeData2016/annotations/training/ADE_train_00000002.png", 0, 255)
    with pytest.raises(UserError) as e:
        pack(PackOptions(recipe="ade20k"), Quiet())
    assert "value 255: 512 pixels" in e.value.problems[0]


def test_missing_scene_file_and_folders_are_reported_at_once(here):
    with pytest.raises(UserError) as e:
        pack(PackOptions(recipe="ade20k-outdoor"), Quiet())
    assert len(e.value.problems) == 3
    assert any("sceneCategories.txt" in p for p in e.value.problems)


def test_coco_stuff_as_downloaded(here):
    root = here / "coco-stuff"
    photo(root / "images/train2017/000000000009.jpg")
    mask(root / "annotations/train2017/000000000009.png", *([0] * 32 * 16), *([124] * 32 * 16))
    tree = {
        "images": [{"id": 9, "file_name": "000000000009.jpg", "height": 32, "width": 32}],
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "bicycle"}],
        "annotations": [
            {"image_id": 9, "category_id": 1, "area": 100.0, "segmentation": [[0, 0, 9, 0, 9, 9, 0, 9]]},
        ],
    }
    (root / "annotations/instances_train2017.json").write_text(json.dumps(tree))
    result = pack(PackOptions(recipe="coco-stuff"), Quiet())
    codes, instances, _ = Packed(result.path).get(0)
    assert result.has_instances
    assert set(np.unique(codes)) == {0, 124}
    assert set(np.unique(instances)) == {0, 124, 256}
    assert instances[0, 0] == 256
    assert pack(PackOptions(recipe="coco-stuff"), Quiet()).up_to_date
    tree["annotations"] = []
    (root / "annotations/instances_train2017.json").write_text(json.dumps(tree))
    with pytest.raises(UserError, match="other files"):
        pack(PackOptions(recipe="coco-stuff"), Quiet())


def test_camvid_and_custom_as_their_heads_say(here):
    for name, photos, masks, values in (
        ("camvid", "camvid/train", "camvid/trainannot", (0, 11)),
        ("custom", "custom/photos", "custom/masks", (0, 1, 3, 255)),
    ):
        photo(here / photos / "a.png")
        mask(here / masks / "a.png", *values)
        result = pack(PackOptions(recipe=name), Quiet())
        assert result.pairs == 1
        assert result.path == Path(f"data/{name}.h5")
