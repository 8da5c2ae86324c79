"""Recipes that extend others, where values come from, and every mistake at once."""

import pytest
from pydantic import ValidationError

from spadecli.core.architecture import Architecture
from spadecli.core.errors import UserError
from spadecli.core.recipe_files import find_recipe, load_recipe
from spadecli.core.schema import describe_errors

BASE = """
[data]
packed = "base.h5"
[labels]
name = "two"
classes = ["a", "b"]
[train]
batch = 4
epochs = 10
"""


@pytest.fixture
def write(tmp_path):
    def _write(name: str, text: str):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    _write("base.toml", BASE)
    return _write


def test_a_recipe_extends_a_file_beside_it(write, tmp_path):
    resolved = load_recipe(write("child.toml", 'extends = "base.toml"\ntrain.batch = 2\n'))
    recipe = resolved.recipe
    assert (recipe.name, recipe.train.batch, recipe.train.epochs, recipe.data.packed) == ("child", 2, 10, "base.h5")
    assert resolved.source("train.batch") == str(tmp_path / "child.toml")
    assert resolved.source("train.epochs") == str(tmp_path / "base.toml")
    assert resolved.source("train.beta2") == "default"


def test_a_recipe_extends_a_shipped_one(write):
    recipe = load_recipe(write("mine.toml", 'extends = "ade20k-vae"\ndata.packed = "mine.h5"\n')).recipe
    assert (recipe.name, recipe.data.packed, recipe.model.latent) == ("mine", "mine.h5", "encoder")
    assert recipe.labels.semantic_channels == 151


def test_a_list_replaces_the_list_below(write):
    recipe = load_recipe(write("child.toml", 'extends = "base.toml"\nlabels.classes = ["x"]\n')).recipe
    assert [c.name for c in recipe.labels.classes] == ["x"]


@pytest.mark.parametrize("how", ["file", "--set"])
def test_steps_in_place_of_epochs(write, how):
    text = 'extends = "base.toml"\n' + ("train.steps = 7\n" if how == "file" else "")
    overrides = ["train.steps=7"] if how == "--set" else []
    train = load_recipe(write("child.toml", text), overrides).recipe.train
    assert (train.steps, train.epochs) == (7, None)


def test_set_is_the_source_of_a_whole_section(write):
    resolved = load_recipe(write("child.toml", BASE), ["data={packed = 'other.h5'}"])
    assert resolved.recipe.data.packed == "other.h5"
    assert resolved.source("data.packed") == "--set"


def test_mistakes_of_both_files_are_reported_at_once_with_their_file(write, tmp_path):
    write("base.toml", BASE.replace("batch = 4", "bach = 4"))
    with pytest.raises(UserError) as e:
        load_recipe(write("child.toml", 'extends = "base.toml"\nmodel.ngf = 0\n'))
    assert len(e.value.problems) == 2
    bach, ngf = sorted(e.value.problems, key=lambda p: "ngf" in p)
    assert "did you mean 'train.batch'" in bach
    assert bach.endswith(f"[{tmp_path / 'base.toml'}]")
    assert ngf.startswith("model.ngf")
    assert "base.toml" not in ngf


def test_inherited_unknown_is_taken_away_by_an_empty_name(write):
    classes = 'labels.classes = ["a", "b"]'
    with pytest.raises(UserError) as e:
        load_recipe(write("child.toml", f'extends = "custom"\n{classes}\n'))
    assert any('unknown = "" means none' in problem for problem in e.value.problems)
    labels = load_recipe(write("child.toml", f'extends = "custom"\n{classes}\nlabels.unknown = ""\n')).recipe.labels
    assert labels.unknown is None
    assert labels.unknown_channel is None


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("model.batch=3", "model.batch: unknown key (did you mean 'train.batch'?)"),
        ("train.size=4", "train.size: unknown key (did you mean 'model.size'?)"),
        ("modle.size=3", "modle: unknown key (did you mean 'model'?)"),
        ("model.num_up_layers=3", "model.num_up_layers: unknown key (model has size, "),
    ],
)
def test_an_unknown_key_comes_with_the_one_that_was_meant(write, text, meant):
    with pytest.raises(UserError) as e:
        load_recipe(write("child.toml", BASE), [text])
    assert any(p.startswith(meant) for p in e.value.problems)


@pytest.mark.parametrize(
    ("extends", "message"), [('"child.toml"', "extends itself"), ("3", "extends = 3"), ('"nothing"', "'nothing'")]
)
def test_what_cannot_be_extended_is_named(write, extends, message):
    with pytest.raises(UserError, match=message):
        load_recipe(write("child.toml", f"extends = {extends}\n"))


def test_a_discriminator_without_feature_maps_matches_none(write):
    with pytest.raises(UserError) as e:
        load_recipe(write("child.toml", BASE), ["discriminator.kind=segmentation"])
    assert "set loss.feature_matching = 0" in e.value.problems[0]
    settings = ["discriminator.kind=segmentation", "loss.feature_matching=0"]
    section = load_recipe(write("child.toml", BASE), settings).recipe.discriminator
    assert (section.weighs_classes, section.mixes_labels) == (True, True)
    assert not load_recipe(
        write("c.toml", BASE), [*settings, "discriminator.label_mix=0"]
    ).recipe.discriminator.mixes_labels
    other = load_recipe(write("child.toml", BASE)).recipe.discriminator
    assert (other.weighs_classes, other.mixes_labels) == (False, False)


def test_scenes_need_their_file(write):
    with pytest.raises(UserError) as e:
        load_recipe(write("child.toml", 'extends = "base.toml"\ndata.scenes = ["beach"]\n'))
    assert "scene_file" in e.value.problems[0]


WRONG = (
    "5",
    "true",
    "1.5",
    "-1",
    "nan",
    "''",
    "'x'",
    "[]",
    "[1]",
    "[[1]]",
    "{a=1}",
    "[{name=1}]",
    "[{name='a',value={}}]",
)


def leaves(tree, prefix=""):
    for key, value in tree.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")


@pytest.mark.parametrize("value", WRONG)
def test_values_of_any_type_are_taken_or_refused_but_never_a_bug(value):
    recipe, problems = load_recipe(find_recipe("facades")).recipe, []
    for key in leaves(recipe.model_dump(mode="json")):
        try:
            load_recipe(find_recipe("facades"), (f"{key}={value}",))
        except UserError as e:
            problems += e.problems
    assert [p for p in problems if "should" in p] == []  # that is pydantic's wording


def test_suggestions_are_keys_of_the_file_that_is_read():
    with pytest.raises(ValidationError) as e:
        Architecture.model_validate({"sise": [1, 2], "batch": 4})
    assert describe_errors(e.value, Architecture) == [
        "sise: unknown key (did you mean 'size'?)",
        f"batch: unknown key (architecture has {', '.join(Architecture.model_fields)})",
    ]
