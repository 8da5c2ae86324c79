"""Training through stages: what each step sees, what is carried over, and that an interruption changes nothing."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch._dynamo  # steps import it, which takes a second: once here, not in every forked process
from networks import visible
from PIL import Image
from tiny_training import assert_same_weights, make_recipe, options
from together import succeed

from spadecli.commands.train import command
from spadecli.commands.train.command import train
from spadecli.core.errors import UserError
from spadecli.core.recipe_files import load_recipe
from spadecli.core.stages import stages_of, steps_in_proportion
from spadecli.data.dataset import StepSampler, TrainingSet
from spadecli.data.edges import instance_edges
from spadecli.model.generator import Generator
from spadecli.model.semantic import SemanticMap
from spadecli.store.run_folder import RunFolder
from spadecli.training.checkpoint import read_state
from spadecli.training.init_from import open_init
from spadecli.training.memory import Memory
from spadecli.training.plan import plan_training
from spadecli.training.run import TrainingRun, training_loader
from spadecli.training.stages import carry_over
from spadecli.training.step import Trainer
from spadecli.training.validate import Validator
from spadecli.weights.file import load_weights, read_card

STAGES = """
[[stage]]
steps = 3
size = [32, 32]
batch = 4
lr_g = 3e-4
[[stage]]
steps = 2
window = [32, 32]
window_share = 0.5
[[stage]]
steps = 2
prior_share = 0.5
"""
FP64 = ("train.precision=fp64", "train.beta1=0.5")


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    """To draw them takes longer than everything else in so small a run."""
    monkeypatch.setattr("spadecli.training.run.plot_losses", lambda *args: None)


@pytest.fixture
def quick_memory(monkeypatch):
    """An estimate of memory that takes no time: the pixels of a step."""

    def pixels(recipe, processes):
        return Memory(0, 0, 0, recipe.train.batch * recipe.model.size[0] * recipe.model.size[1])

    monkeypatch.setattr("spadecli.training.plan.estimate_memory", pixels)


def staged(folder, stages: str = STAGES, **more):
    """A recipe of 64x64 with stages, its length left to them."""
    path = make_recipe(folder, scale=2, **more)
    path.write_text(path.read_text().replace("steps = 6\n", "") + stages)
    return path


def recipe_of(folder, stages: str = STAGES, *overrides):
    return load_recipe(staged(folder, stages), overrides).recipe


def problems_of(folder, stages: str, *overrides) -> str:
    with pytest.raises(UserError) as e:
        recipe_of(folder, stages, *overrides)
    return "\n".join(e.value.problems)


# The recipe.


def test_a_stage_takes_from_train_what_it_leaves_out(tmp_path):
    recipe = recipe_of(tmp_path)
    assert recipe.train.steps == 7
    first, second, third = stages_of(recipe, 7)
    assert [(s.first, s.end, s.images_before, s.size, s.batch) for s in (first, second, third)] == [
        (0, 3, 0, (32, 32), 4),
        (3, 5, 12, (64, 64), 2),
        (5, 7, 16, (64, 64), 2),
    ]
    assert (first.recipe.train.lr_g, second.recipe.train.lr_g) == (3e-4, recipe.train.lr_g)
    assert (second.recipe.train.window, third.recipe.train.window) == ((32, 32), None)
    assert (second.recipe.train.prior_share, third.recipe.train.prior_share) == (0, 0.5)
    assert [s.images(s.end) for s in (first, second, third)] == [12, 16, 20]


def test_a_run_without_stages_is_a_single_one(tmp_path):
    recipe = load_recipe(make_recipe(tmp_path)).recipe
    (stage,) = stages_of(recipe, 9)
    assert (stage.first, stage.end, stage.shift, stage.recipe) == (0, 9, 0, recipe)


@pytest.mark.parametrize(("steps", "ends"), [(70, [30, 50, 70]), (3, [1, 2, 3]), (4, [2, 3, 4]), (5, [2, 4, 5])])
def test_a_fitted_length_keeps_the_shares(tmp_path, steps, ends):
    assert [stage.end for stage in stages_of(recipe_of(tmp_path), steps)] == ends


def test_steps_fit_a_time_by_the_paces_of_all_stages(tmp_path):
    stages = stages_of(recipe_of(tmp_path), 7)
    assert steps_in_proportion(stages, [1, 2, 4], 30) == 14  # 15 seconds for 7
    assert steps_in_proportion(stages, [1, 2, 4], 0.1) == 3


@pytest.mark.parametrize(
    ("stages", "problem"),
    [
        ("[[stage]]\nsteps = 1\nsize = [48, 48]", "stage.0.size [48, 48]: height and width must be multiples of 32"),
        ("[[stage]]\nsteps = 1\nsize = [96, 96]", "stage.0.size [96, 96]: larger than model.size [64, 64]"),
        ("[[stage]]\nsteps = 1\nsize = [32, 64]", "stage.0.size [32, 64]: not the aspect ratio of model.size [64, 64]"),
        ("[[stage]]\nsteps = 1\nsize = [32, 32]", "the last stage trains at model.size"),
        ("[[stage]]\nsteps = 1\nsise = [64, 64]", "stage.0.sise: unknown key (did you mean 'stage.size'?)"),
        ("[[stage]]\nsize = [64, 64]", "stage.0.steps: missing"),
        ("[[stage]]\nsteps = 0", "stage.0.steps: expected at least 1"),
        ("[[stage]]\nsteps = 1\nbatch = 0", "stage.0.batch: expected at least 1"),
        ("[stage]\nsteps = 1", "stage: expected a list"),
        (
            "[[stage]]\nsteps = 1\nsize = [32, 32]\nwindow = [64, 64]\nwindow_share = 1\n[[stage]]\nsteps = 1",
            "stage.0.window [64, 64]: expected multiples of 32, at most the stage's size [32, 32]",
        ),
        ("[[stage]]\nsteps = 1\nwindow_share = 0.5", "stage.0.window_share needs a train.window"),
    ],
)
def test_stages_that_cannot_be_are_refused(tmp_path, stages, problem):
    problems = problems_of(tmp_path, stages)
    assert problem in problems
    assert "either steps or epochs" not in problems or stages.startswith("[stage]")


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (("train.steps=8",), "train.steps = 8: the stages have 7 steps in all"),
        (("train.epochs=8",), "train.epochs: the stages give the length of the run in steps"),
        (("train.accumulate=2", "train.batch=2", "stage=[{steps=1, batch=3}]"), "accumulate = 2 does not divide"),
        (("train.accumulate=0", "stage=[{steps=1, batch=3}]"), "train.accumulate: expected at least 1"),
        (("model.latent=noise",), 'stage.2.prior_share needs model.latent = "encoder"'),
        (("train.window=[64,64]", "train.window_share=1"), "stage.0.window [64, 64]: expected multiples of 32"),
    ],
)
def test_stages_that_contradict_the_rest_are_refused(tmp_path, overrides, problem):
    assert problem in problems_of(tmp_path, STAGES, *overrides)


def test_stages_replace_an_inherited_length_and_are_not_replaced_by_one(tmp_path):
    path = make_recipe(tmp_path, scale=2)
    (tmp_path / "child.toml").write_text('extends = "tiny.toml"\n' + STAGES)
    assert load_recipe(tmp_path / "child.toml").recipe.train.steps == 7
    assert load_recipe(path, ("stage=[{steps=5}]",)).recipe.train.steps == 5
    (tmp_path / "third.toml").write_text('extends = "child.toml"\ntrain.steps = 3\n')
    with pytest.raises(UserError) as e:
        load_recipe(tmp_path / "third.toml")
    assert "the stages have 7 steps in all" in e.value.problems[0]
    assert load_recipe(tmp_path / "third.toml", ("stage=[]",)).recipe.train.steps == 3


def test_a_batch_that_processes_cannot_share_is_named_with_its_stage(tmp_path, monkeypatch):
    path = staged(tmp_path, "[[stage]]\nsteps = 1\n[[stage]]\nsteps = 1\nbatch = 2\nprior_share = 0.3")
    with pytest.raises(UserError, match=r"stage 2 of 2: train\.prior_share = 0\.3: not a whole number of the 2 images"):
        train(options(path, tmp_path / "runs"))


# What a step sees.


def test_samples_of_all_stages_are_one_stream(tmp_path):
    indices = [2, 3, 5, 7, 11]
    keys = [
        key
        for stage in stages_of(recipe_of(tmp_path), 7)
        for keys in StepSampler(indices, stage.batch, 1, stage.first, stage.end, shift=stage.shift)
        for key in keys
    ]
    assert keys == [key for keys in StepSampler(indices, 1, 1, 0, 20) for key in keys]


def test_a_small_image_is_the_crop_reduced(tmp_path):
    path = make_recipe(tmp_path, scale=2, instances=True)
    small_recipe = load_recipe(path, ("stage=[{steps=1, size=[32,32]}, {steps=1}]",)).recipe
    first, last = stages_of(small_recipe, 2)
    whole = TrainingSet(tmp_path / "tiny.h5", small_recipe)
    small = whole.at_size_of(first.recipe)
    for key in ((0, 0), (1, 2), (2, 1)):  # some of them mirrored
        a, b = whole[key], small[key]
        assert torch.equal(a["eps"], b["eps"])
        areas = a["photo"].unflatten(2, (32, 2)).unflatten(1, (32, 2)).double().mean((2, 4))
        assert (areas - b["photo"].double()).abs().max() <= 0.5
        assert torch.equal(b["channels"], a["channels"][1::2, 1::2])
        assert torch.equal(b["edges"], a["edges"].unflatten(1, (32, 2)).unflatten(0, (32, 2)).amax((1, 3)))
    again = whole.at_size_of(last.recipe)[0, 1]
    assert all(torch.equal(again[name], value) for name, value in whole[0, 1].items())
    pair, reduced = whole.centre(1), small.centre(1)
    assert reduced.photo.shape == (32, 32, 3)
    assert np.array_equal(reduced.codes, pair.codes[1::2, 1::2])
    _, ids, _ = whole.packed.get(1)
    assert np.array_equal(pair.edges, instance_edges(ids[4:68, 8:72]))


def test_batches_of_a_stage_have_its_size_and_windows(tmp_path):
    recipe = recipe_of(tmp_path)
    dataset, shapes = TrainingSet(tmp_path / "tiny.h5", recipe), []
    for stage in stages_of(recipe, 7):
        trainer = Trainer(stage.recipe, torch.device("cpu"))
        loader = training_loader(
            dataset.at_size_of(stage.recipe), range(4), trainer, stage.first, stage.end, stage.shift
        )
        shapes += [(tuple(b["photo"].shape[::2]), tuple(b["channels"].shape[1:])) for b in loader]
    assert shapes[:3] == [((4, 32), (32, 32))] * 3
    assert {photo for photo, _ in shapes[3:]} == {(2, 64)}
    assert {channels for _, channels in shapes[5:]} == {(64, 64)}
    assert (32, 32) in {channels for _, channels in shapes[3:5]}


# What is carried over.


def small_trainer(folder) -> tuple[Trainer, object]:
    """A trainer of 32x32 after two steps, in float64, and the recipe of the next stage."""
    first, second = stages_of(recipe_of(folder, "[[stage]]\nsteps=2\nsize=[32,32]\n[[stage]]\nsteps=2", *FP64), 4)
    trainer = Trainer(first.recipe, torch.device("cpu"))
    for i, network in enumerate((trainer.generator, trainer.encoder)):
        visible(network, i)
    trainer.restart_ema()
    dataset = TrainingSet(folder / "tiny.h5", first.recipe)
    for batch in training_loader(dataset, range(4), trainer, 0, 2):
        trainer.step(batch, 1.0)
    return trainer, second.recipe


def test_the_start_grid_alone_is_resized(tmp_path):
    trainer, recipe = small_trainer(tmp_path)
    carried = carry_over(trainer, recipe)
    z = torch.randn(3, 4, dtype=torch.float64)
    semantic = SemanticMap(torch.zeros(3, 64, 64, dtype=torch.int64), None, 3)
    # what a generator of 32x32 computes for an image of 64x64
    torch.testing.assert_close(carried.generator.start(semantic, z), trainer.generator.start(semantic, z))
    average = Generator(recipe.model, 3, spectral=False).double()
    average.load_state_dict(carried.ema.averages["generator"], strict=False)
    before = Generator(trainer.recipe.model, 3, spectral=False).double()
    before.load_state_dict(trainer.ema.averages["generator"], strict=False)
    torch.testing.assert_close(average.eval()(semantic, z), before.eval()(semantic, z))
    assert carried.ema.updates == 2
    for name, network in trainer.networks().items():
        new = carried.networks()[name].state_dict()
        assert {k for k, v in network.state_dict().items() if not torch.equal(v, new[k])} == (
            {"fc.weight", "fc.bias"} if name == "generator" else set()
        )


def test_moments_are_carried_over_except_those_of_the_first_layer(tmp_path):
    trainer, recipe = small_trainer(tmp_path)
    carried = carry_over(trainer, recipe)
    for old, new in ((trainer.optimizer_g, carried.optimizer_g), (trainer.optimizer_d, carried.optimizer_d)):
        pairs = zip(old.param_groups[0]["params"], new.param_groups[0]["params"], strict=True)
        fresh = []
        for i, (p, q) in enumerate(pairs):
            if not new.state[q]:
                fresh.append(i)
                continue
            assert all(torch.equal(new.state[q][key], old.state[p][key]) for key in ("step", "exp_avg", "exp_avg_sq"))
        names = [name for name, _ in trainer.generator.named_parameters()]
        assert [names[i] for i in fresh] == (["fc.weight", "fc.bias"] if old is trainer.optimizer_g else [])
    dataset = TrainingSet(tmp_path / "tiny.h5", recipe)
    for batch in training_loader(dataset, range(4), carried, 2, 3):
        carried.step(batch, 1.0)
    steps = [int(carried.optimizer_g.state[p]["step"]) for p in carried.generator.parameters()]
    assert steps == [1, 1] + [3] * (len(steps) - 2)


# Runs.


def test_stages_of_the_same_settings_are_a_run_without_any(tmp_path):
    path = make_recipe(tmp_path, scale=2)
    plain = train(options(path, tmp_path / "plain"))
    parts = train(options(path, tmp_path / "stages", "stage=[{steps=1}, {steps=3, size=[64,64]}, {steps=2, batch=2}]"))
    assert_same_weights(plain.weights, parts.weights)


@pytest.mark.parametrize("latent", ["encoder", pytest.param("map", marks=pytest.mark.slow)])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, latent, monkeypatch):
    monkeypatch.setattr(TrainingRun, "_draw", lambda *args: None)
    stages = STAGES if latent == "encoder" else STAGES.replace("prior_share = 0.5", "")
    path = staged(tmp_path, stages, latent=latent, instances=True)
    whole = train(options(path, tmp_path / "whole", *FP64))
    parts = train(options(path, tmp_path / "parts", *FP64, max_minutes=0))
    seen = [read_state(parts.run_dir / "state.pt")["stage"]]
    while not parts.finished:  # a step at a time: in every stage, and at every boundary
        parts = train(options(path, tmp_path / "parts", *FP64, max_minutes=0))
        seen.append(read_state(parts.run_dir / "state.pt")["stage"])
    assert seen == [1, 1, 1, 2, 2, 3, 3]
    assert_same_weights(whole.weights, parts.weights)
    rows = [RunFolder(result.run_dir).stats() for result in (whole, parts)]
    assert [row["stage"] for row in rows[0]] == [1, 1, 2, 2, 3, 3]  # at steps 2, 3, 4, 5, 6 and 7
    assert rows[0][-1]["epoch"] == rows[1][-1]["epoch"] == 20 / 4


def test_a_run_killed_after_a_boundary_resumes_from_it(tmp_path, monkeypatch):
    path = staged(tmp_path, STAGES.partition("[[stage]]\nsteps = 2\nprior")[0])
    overrides = (*FP64, "train.checkpoint_every=100")
    whole = train(options(path, tmp_path / "whole", *overrides))
    step, steps = Trainer.step, []

    def die_in_the_fifth(self, *args):
        steps.append(self)
        if len(steps) == 5:
            raise RuntimeError("killed")
        step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", die_in_the_fifth)
        with pytest.raises(RuntimeError, match="killed"):
            train(options(path, tmp_path / "killed", *overrides))
    state = read_state(tmp_path / "killed" / "tiny" / "state.pt")
    assert (state["step"], state["stage"]) == (3, 1)
    assert_same_weights(whole.weights, train(options(path, tmp_path / "killed", *overrides)).weights)


def test_learning_rates_and_order_of_the_pairs_are_those_of_the_whole_run(tmp_path, monkeypatch):
    scales, keys, item = [], [], TrainingSet.__getitem__
    monkeypatch.setattr(Trainer, "step", lambda self, batch, scale, generator_learns: scales.append(scale))
    monkeypatch.setattr(TrainingSet, "__getitem__", lambda self, key: keys.append(key[:2]) or item(self, key))
    train(options(staged(tmp_path), tmp_path / "runs", "train.decay_from=0"))
    assert keys == [key for batch in StepSampler([0, 1, 2, 4], 1, 0, 0, 20) for key in batch]
    np.testing.assert_allclose(scales, 1 - np.arange(7) / 7)


def test_weights_sheets_and_card_are_those_of_the_stage(tmp_path):
    path = staged(tmp_path)
    what = options(path, tmp_path / "runs", "train.sample_every=3", max_minutes=0)
    first = train(what)
    card = read_card(first.weights)
    assert card.architecture.size == (32, 32)
    assert card.training["stages"] == [{"size": [32, 32], "batch": 4, "steps": 1}]
    last = train(replace(what, max_minutes=None))
    card, generator, _ = load_weights(last.weights)
    assert card.architecture.size == generator.arch.size == (64, 64)
    assert [stage["steps"] for stage in card.recipe["stage"]] == [3, 2, 2]
    assert [stage["steps"] for stage in card.training["stages"]] == [3, 2, 2]
    assert card.training["images"] == 20
    heights = [Image.open(p).height for p in sorted((last.run_dir / "samples").iterdir())]
    rows = 4  # pairs, with gaps of 4 pixels between
    assert heights == [rows * side + (rows - 1) * 4 for side in (32, 32, 64, 64)]


def test_validation_is_at_the_size_of_the_stage_and_best_begins_anew_with_it(tmp_path, monkeypatch):
    distances = iter([1.0, 2.0, 5.0, 4.0])
    monkeypatch.setattr(TrainingRun, "_draw", lambda *args: None)
    monkeypatch.setattr("spadecli.training.validate._extractor", lambda *args: SimpleNamespace(frechet_name="distance"))
    monkeypatch.setattr(Validator, "_photo_features", lambda self, extractor: None)
    monkeypatch.setattr(Validator, "_measure", lambda self, generator: (next(distances), None))
    path = staged(tmp_path, "[[stage]]\nsteps=2\nsize=[32,32]\n[[stage]]\nsteps=2")
    what = options(path, tmp_path / "runs", "validation.every=1", "validation.pairs=2", max_minutes=0)
    run = train(what)
    assert read_card(run.best).architecture.size == (32, 32)
    for _ in range(2):
        run = train(what)
    rows = [json.loads(line) for line in (run.run_dir / "validation.jsonl").read_text().splitlines()]
    assert [(row["size"], row["is_best"]) for row in rows] == [
        ([32, 32], True),
        ([32, 32], False),
        ([64, 64], True),
    ]
    assert train(replace(what, max_minutes=None)).finished
    assert read_card(run.best).training["steps"] == 4
    heights = [Image.open(p).height for p in sorted((run.run_dir / "samples").glob("validation_*.png"))]
    assert heights == [2 * side + 4 for side in (32, 32, 64, 64)]


def test_a_fitted_run_times_every_stage_and_keeps_their_shares(tmp_path, monkeypatch):
    timed, told = [], []

    def pace(trainer, dataset, *args):
        timed.append((trainer.recipe.model.size, dataset.recipe.model.size, trainer.recipe.train.batch))
        return [1.0, 2.0, 4.0][len(timed) - 1]

    monkeypatch.setattr(command, "seconds_per_step", pace)
    result = train(options(staged(tmp_path), tmp_path / "runs", fit_minutes=0.5, max_minutes=0))
    assert timed == [((32, 32), (32, 32), 4), ((64, 64), (64, 64), 2), ((64, 64), (64, 64), 2)]
    assert result.steps == 14
    record = json.loads((result.run_dir / "run.json").read_text())
    assert (record["steps"], record["recipe"]["train"]["steps"]) == (14, 7)
    run = TrainingRun.run
    monkeypatch.setattr(TrainingRun, "run", lambda self, *a: told.extend(s.end for s in self.stages) or run(self, *a))
    train(options(staged(tmp_path), tmp_path / "runs", max_minutes=0))
    assert told == [6, 10, 14]


def test_a_plan_lists_the_stages_and_the_memory_of_the_largest(tmp_path, quick_memory):
    path = staged(tmp_path, "[[stage]]\nsteps = 5\nsize = [32, 32]\nbatch = 3\n[[stage]]\nsteps = 1\n")
    plan = plan_training(options(path, tmp_path / "runs"))
    assert [stage.line for stage in plan.stages] == [
        "stage 1 of 2: 32x32, batch 3, steps 0 to 5",
        "stage 2 of 2: 64x64, batch 2, steps 5 to 6",
    ]
    assert plan.memory.total == 2 * 64 * 64
    assert (plan.steps, plan.steps_per_epoch) == (6, 4 * 6 / 17)
    plain = plan_training(options(path, tmp_path / "runs", "stage=[]", "train.steps=6"))
    assert (plain.stages, plain.steps_per_epoch) == ((), 2)
    large = staged(tmp_path, "[[stage]]\nsteps = 5\nsize = [32, 32]\nbatch = 16\n[[stage]]\nsteps = 1\n")
    assert plan_training(options(large, tmp_path / "runs")).memory.total == 16 * 32 * 32


def test_the_command_shows_the_stages(tmp_path, quick_memory):
    from typer.testing import CliRunner

    from spadecli.cli.app import app

    words = ["train", str(staged(tmp_path)), "--device", "cpu", "--dry-run"]
    text = CliRunner().invoke(app, words).output
    assert "stage 1 of 3: 32x32, batch 4, steps 0 to 3" in text
    stages = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)["stages"]
    assert stages[1] == {"size": [64, 64], "batch": 2, "first": 3, "end": 5}


def test_running_out_of_memory_names_the_batch_of_the_stage(tmp_path, monkeypatch):
    def too_large(self, *args):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Trainer, "step", too_large)
    with pytest.raises(UserError, match="size 32x32, fp32: 4 at a time") as e:
        train(options(staged(tmp_path), tmp_path / "runs"))
    assert "batch = 3 in this [[stage]] trains on smaller batches" in e.value.hint


def train_and_tell(what, folder) -> None:
    """Train, and write the last trainer's state, and with how many it shares its batches."""
    run = TrainingRun.run

    def watched(self, *args):
        found = run(self, *args)
        shared = {"state": self.trainer.state_dict(), "processes": self.trainer.processes.ranks.size}
        torch.save(shared, folder / f"rank_{self.processes.ranks.rank}.pt")
        return found

    TrainingRun.run = watched
    train(what)


@pytest.mark.dist
def test_two_processes_train_like_one(tmp_path, monkeypatch):
    monkeypatch.setattr(TrainingRun, "_draw", lambda *args: None)
    path = staged(tmp_path, STAGES.replace("prior_share = 0.5", "batch = 4\nprior_share = 0.5"), pairs=9)
    rows = []
    for size in (1, 2):
        what = options(path, tmp_path / str(size), *FP64)
        train(what) if size == 1 else succeed(size, tmp_path, train_and_tell, what, tmp_path)
        rows.append(RunFolder(tmp_path / str(size) / "tiny").stats())
    assert [row["stage"] for row in rows[1]] == [1, 1, 2, 2, 3, 3]
    for one, two in zip(*rows, strict=True):
        for name in ("g_hinge", "d_real", "feature_matching", "kl", "g_norm"):
            np.testing.assert_allclose(one[name], two[name], 1e-5)
    ends = [torch.load(tmp_path / f"rank_{rank}.pt") for rank in range(2)]
    assert [end["processes"] for end in ends] == [2, 2]
    first, second = (end["state"]["networks"]["generator"] for end in ends)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


SEGMENTING = ("discriminator.kind=segmentation", "loss.feature_matching=0", "discriminator.ndf=2")


def test_a_segmentation_discriminator_has_one_depth_in_all_stages(tmp_path):
    """At 64x64 alone it would halve four times, at 32x32 three."""
    recipe = staged(tmp_path)
    assert recipe_of(tmp_path, STAGES, *SEGMENTING).discriminator_depth == 3
    whole = train(options(recipe, tmp_path / "whole", *SEGMENTING))
    assert whole.finished
    assert read_card(whole.weights).recipe["discriminator"]["kind"] == "segmentation"
    for minutes in (*[0.0] * 4, None):  # through the first boundary
        part = train(options(recipe, tmp_path / "parts", *SEGMENTING, max_minutes=minutes))
    assert part.finished
    start = open_init(tmp_path / "whole" / "tiny", recipe_of(tmp_path, STAGES, *SEGMENTING))
    assert start.discriminator is not None
    again = train(options(recipe, tmp_path / "again", *SEGMENTING, init=tmp_path / "whole" / "tiny"))
    assert again.finished


def test_the_prior_follows_the_codes_in_every_stage(tmp_path):
    """A stage that draws nothing from it leaves the moments to the next."""
    stages = "[[stage]]\nsteps = 1\n[[stage]]\nsteps = 1\nprior_share = 0.5\n"
    train(options(staged(tmp_path, stages), tmp_path / "runs", "train.match_prior=4", max_minutes=0.0))
    state = read_state(tmp_path / "runs" / "tiny" / "state.pt")
    assert state["step"] == 1
    assert (state["trainer"]["aggregate"]["mean"] != 0).all()
