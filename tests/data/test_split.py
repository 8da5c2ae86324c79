"""Which pairs are trained on, looked at and held out."""

import pytest
from tiny_training import make_recipe

from spadecli.core.errors import UserError
from spadecli.core.recipe_files import find_recipe, load_recipe
from spadecli.data.split import split_pairs

NAMES = [f"{i:04d}" for i in range(1, 401)]


def recipe_of(*overrides: str):
    return load_recipe(find_recipe("facades"), overrides).recipe


def test_without_validation_all_but_the_held_out_are_trained_on():
    split = split_pairs(NAMES, recipe_of())
    assert (len(split.training), len(split.validation), len(split.held_out)) == (360, 0, 40)


@pytest.mark.parametrize("pairs", [2, 20, 37, 180])
def test_validation_pairs_come_evenly_from_what_is_not_held_out_and_are_not_trained_on(pairs):
    recipe = recipe_of("validation.every=100", f"validation.pairs={pairs}")
    split = split_pairs(NAMES, recipe)
    assert len(split.validation) == pairs
    assert sorted([*split.training, *split.validation, *split.held_out]) == list(range(400))
    assert {NAMES[i] for i in split.held_out} == set(recipe.data.holdout)
    gaps = [b - a for a, b in zip(split.validation, split.validation[1:], strict=False)]
    assert max(gaps) <= 400 // pairs + 2
    assert split_pairs(NAMES, recipe) == split


def test_the_facades_recipe_says_how_many():
    assert len(split_pairs(NAMES, recipe_of("validation.every=100")).validation) == recipe_of().validation.pairs == 20


def test_named_pairs_are_taken():
    split = split_pairs(NAMES, recipe_of("validation.every=1", 'validation.names=["0002", "0399"]'))
    assert split.validation == [1, 398]
    assert not split.problems


def test_every_mistake_is_named():
    overrides = ("validation.every=1", 'validation.names=["0010", "nothing"]', 'data.holdout=["0010", "none"]')
    problems = split_pairs(NAMES, recipe_of(*overrides)).problems
    assert [p.split(": ")[-1] for p in problems] == ["none", "nothing", "0010"]
    (problem,) = split_pairs(NAMES[:30], recipe_of("validation.every=1", "data.holdout=[]")).problems
    assert problem == "validation.pairs = 20: at most half of the 30 pairs that are not held out can be used"


def test_extractor_and_inception_exclude_each_other(tmp_path):
    with pytest.raises(UserError) as e:
        load_recipe(make_recipe(tmp_path), ["validation.extractor=a.pt", "validation.inception=b.pt"])
    assert "either extractor or inception" in e.value.problems[0]
