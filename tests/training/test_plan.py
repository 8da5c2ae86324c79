"""A run as it would be: sources, sizes, and what is missing."""

import pytest
from files import data_set

from spadecli.commands.pack.command import PackOptions, pack
from spadecli.commands.train.command import TrainOptions, train
from spadecli.core.errors import UserError
from spadecli.training.plan import plan_training

SMALL = ("model.ngf=2", "model.hidden=4", "discriminator.ndf=2", "train.num_workers=0", "train.batch=2")
NO_LOSS = ("loss.perceptual_network=none",)


@pytest.fixture
def packed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data_set(tmp_path)
    pack(PackOptions())


def options(*overrides: str, **more) -> TrainOptions:
    return TrainOptions(recipe="recipe.toml", device="cpu", overrides=(*SMALL, *overrides), **more)


def test_a_plan_writes_nothing_and_needs_no_perceptual_weights(packed, tmp_path):
    plan = plan_training(options())
    assert (plan.pairs, plan.steps, plan.steps_per_epoch, plan.missing) == (3, 10, 1.5, "")
    assert plan.parameters["generator"] > 0
    assert not (tmp_path / "runs").exists()
    sources = {key: source for key, _, source in plan.settings}
    assert (sources["train.batch"], sources["train.steps"], sources["train.beta2"]) == (
        "--set",
        "recipe.toml",
        "default",
    )


def test_a_plan_without_data_says_how_to_pack_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = plan_training(TrainOptions(recipe="cityscapes", device="cpu"))
    assert (plan.pairs, plan.steps, plan.steps_per_epoch) == (None, None, None)
    assert "spade pack --recipe cityscapes -o data/cityscapes.h5" in plan.missing


def test_a_plan_of_an_unfinished_run_names_it_as_the_source(packed):
    train(options(*NO_LOSS, max_minutes=0.0))
    plan = plan_training(TrainOptions(device="cpu"))
    assert {source for _, _, source in plan.settings} == {"runs/three"}
    assert plan.steps == 10


def test_a_plan_refuses_what_training_would_refuse(packed):
    with pytest.raises(UserError, match="does not fit"):
        plan_training(options("data.load_size=[40,40]"))
    train(options(*NO_LOSS, max_minutes=0.0))
    with pytest.raises(UserError, match="another run"):
        plan_training(options(*NO_LOSS, "train.seed=9"))
