"""What a training step optimises, held against a step written out plainly (plain_step.py); and that this can fail."""

import json
import math
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import wrong_steps
from networks import random_statistics, visible
from plain_step import PlainTraining, assert_same, numbers_of
from tiny_training import make_recipe, options
from torch import Tensor, nn

from spadecli.commands.train.command import train
from spadecli.core.labelspace import LabelSpace
from spadecli.core.recipe import Recipe
from spadecli.data.packed import create_packed
from spadecli.model.layers import SpectralConv2d
from spadecli.model.perceptual import squeezenet_layers, vgg16_layers, vgg19_layers
from spadecli.training.step import TERMS, Trainer

CPU = torch.device("cpu")
TOLERANCE = 1e-10  # after three steps: Adam makes rounding larger where a gradient is small
LAYERS = {"squeezenet": squeezenet_layers, "vgg19": vgg19_layers, "vgg16": vgg16_layers}


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory) -> Path:
    """Random weights of the networks that perceptual losses look through."""
    folder = tmp_path_factory.mktemp("classifiers")
    for name, layers in LAYERS.items():
        torch.manual_seed(0)
        network = nn.Sequential(*layers()[0])
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
        torch.save(network.state_dict(), folder / f"{name}.pth")
    return folder


BASE = {
    "name": "small",
    "data": {"packed": "none.h5", "load_size": (64, 64)},
    "labels": {"name": "small", "classes": ["wall", "window", "door"]},
    "model": {"size": (64, 64), "ngf": 2, "z_dim": 4, "hidden": 4, "latent": "map"},
    "discriminator": {"ndf": 2},
    "loss": {"perceptual_network": "none"},
    # the averages' decay is below its bound (2 / 11 at first) in the third step alone
    "train": {"batch": 4, "steps": 9, "ema_decay": 0.28, "precision": "fp64", "modulation": "plain"},
}


def recipe_with(classifiers: Path, changes: dict[str, object]) -> Recipe:
    """BASE with values of "section.key"."""
    tree = {k: dict(v) if isinstance(v, dict) else v for k, v in BASE.items()}
    for key, value in changes.items():
        section, _, name = key.partition(".")
        tree[section][name] = value
    if (network := tree["loss"]["perceptual_network"]) != "none":
        tree["loss"]["perceptual_weights"] = str(classifiers / f"{network}.pth")
    if tree["discriminator"].get("kind") == "projected":
        tree["discriminator"] |= {"features": "squeezenet", "features_weights": str(classifiers / "squeezenet.pth")}
    return Recipe.model_validate(tree)


def new_trainer(recipe: Recipe) -> Trainer:
    """A trainer whose networks say something: as they begin, scores are 0 and every image is grey."""
    trainer = Trainer(recipe, CPU)
    for i, network in enumerate(trainer.networks().values()):
        visible(network, i)
        random_statistics(network)
        for layer in network.modules():
            if isinstance(layer, SpectralConv2d):
                layer.power_iteration(2)
    trainer.restart_ema()
    return trainer


def batches(recipe: Recipe, count: int = 3) -> list[dict[str, Tensor]]:
    """Masks of squares, photos with light and noise."""
    random = torch.Generator().manual_seed(1)
    size, (height, width) = recipe.train.batch, recipe.model.size
    integers, kron = partial(torch.randint, generator=random, dtype=torch.uint8), torch.kron
    found = []
    for _ in range(count):
        light = integers(0, 156, (size, 3, height // 8, width // 8))
        batch = {
            "channels": kron(integers(0, 3, (size, height // 8, width // 8)), torch.ones(8, 8, dtype=torch.uint8)),
            "photo": kron(light, torch.ones(8, 8, dtype=torch.uint8)) + integers(0, 100, (size, 3, height, width)),
            "eps": torch.randn(size, recipe.model.z_dim, generator=random),
        }
        if recipe.labels.instances:
            batch["edges"] = integers(0, 2, (size, height, width))
        if recipe.discriminator.augment:
            batch["augment"] = torch.rand(size, 8, generator=random)
        if recipe.model.pixel_noise:
            batch["noise_places"] = torch.randint(1000, (size, 2), generator=random)
        if recipe.discriminator.mixes_labels:
            batch["from_photo"] = torch.rand(size, recipe.labels.num_classes, generator=random) < 0.5
        if recipe.train.window:
            rows, columns = (slice(n) for n in recipe.train.window)
            batch |= {name: batch[name][:, rows, columns] for name in ("channels", "edges") if name in batch}
            stride = recipe.model.stride
            most = [(s - w) // stride for s, w in zip(recipe.model.size, recipe.train.window, strict=True)]
            batch["at"] = stride * torch.stack([torch.randint(n + 1, (size,), generator=random) for n in most], 1)
        found.append(batch)
    return found


EVERYTHING = {
    "model.latent": "encoder",
    "loss.perceptual_network": "squeezenet",
    "loss.color": 3.0,
    "loss.kl": 0.2,
    "train.accumulate": 2,
}
SEGMENTATION = {
    "discriminator.kind": "segmentation",
    "discriminator.label_mix": 3.0,
    "loss.feature_matching": 0.0,
    "loss.color": 3.0,
    "model.latent": "encoder",
    "train.prior_share": 0.25,
}
CASES = {
    "map": {},
    "noise, edges": {"model.latent": "noise", "labels.instances": True},
    "encoder": {"model.latent": "encoder", "model.encoder_grid": 4},
    "perceptual, color, three scales": {
        "loss.perceptual_network": "squeezenet",
        "loss.color": 3.0,
        "discriminator.num_scales": 3,
    },
    "vgg19, one image": {"loss.perceptual_network": "vgg19", "loss.perceptual": 3.0, "train.batch": 1},
    "vgg16, one image": {"loss.perceptual_network": "vgg16", "loss.perceptual": 3.0, "train.batch": 1},
    "everything, the generator clipped": EVERYTHING | {"loss.kl_reference_batch": 7, "train.max_grad_norm": 1.0},
    "momentum, both clipped": {"train.beta1": 0.5, "train.beta2": 0.99, "train.max_grad_norm": 0.1},
    "parts of one image": {"model.latent": "noise", "model.norm": "instance", "train.batch": 2, "train.accumulate": 2},
    "fast modulation": {"model.latent": "noise", "labels.instances": True, "train.modulation": "fast"},
    "either modulation": {"train.modulation": "auto", "train.accumulate": 2},
    "no spectral norm": {"model.spectral_norm": False},
    "pixel noise": {"model.latent": "noise", "model.pixel_noise": True},
    "z of the prior, Gram matrices": {
        "model.latent": "encoder",
        "train.prior_share": 0.25,
        "loss.perceptual_network": "squeezenet",
        "loss.gram": 2.0,
        "loss.color": 3.0,
    },
    "unknown pixels ignored": EVERYTHING | {"labels.unknown": "door", "loss.ignore_unknown": True, "loss.gram": 2.0},
    "windows": EVERYTHING
    | {
        "model.size": [64, 96],
        "data.load_size": [64, 96],
        "train.window": [32, 64],
        "train.window_share": 0.5,
        "train.prior_share": 0.5,
        "loss.color": 0.0,
    },
    "windows, edges, unknown pixels ignored": {
        "model.latent": "noise",
        "labels.instances": True,
        "labels.unknown": "door",
        "loss.ignore_unknown": True,
        "train.window": [32, 32],
        "train.window_share": 1.0,
        "train.modulation": "fast",
    },
    "augmented": EVERYTHING
    | {
        "discriminator.augment": "color, translation, cutout",
        "discriminator.augment_from": 9.0,
        "labels.instances": True,
    },
    "augmented windows": {
        "discriminator.augment": ["translation"],
        "discriminator.augment_from": 9.0,
        "model.latent": "noise",
        "train.window": [32, 64],
        "train.window_share": 0.5,
    },
    "not augmented yet": {"discriminator.augment": "color", "discriminator.augment_from": 0.0},
    "balanced": EVERYTHING
    | {
        "loss.balance": {"adversarial": 2.0, "feature_matching": 1.0, "perceptual": 3.0, "color": 1.0, "gram": 0.5},
        "loss.balance_norm": 0.3,
        "loss.gram": 1.0,
        "labels.unknown": "door",
        "loss.ignore_unknown": True,
    },
    "projected": {"model.latent": "encoder", "train.prior_share": 0.25, "discriminator.kind": "projected"},
    "projected, with colours; z of all photographs": {
        "model.latent": "encoder",
        "train.prior_share": 0.5,
        "train.match_prior": 3,
        "train.accumulate": 2,
        "train.batch": 8,
        "discriminator.kind": "projected",
        "discriminator.color_heads": True,
    },
    "segmentation": SEGMENTATION,
    "segmentation, windows, edges, unknown pixels ignored, parts": SEGMENTATION
    | {
        "model.latent": "noise",
        "train.prior_share": 0.0,
        "labels.instances": True,
        "labels.unknown": "door",
        "loss.ignore_unknown": True,
        "train.window": [32, 32],
        "train.window_share": 1.0,
        "train.accumulate": 2,
    },
    "segmentation, augmented, balanced, not mixed": SEGMENTATION
    | {
        "discriminator.label_mix": 0.0,
        "discriminator.augment": "color, translation, cutout",
        "discriminator.augment_from": 9.0,
        "loss.balance": {"adversarial": 2.0, "color": 1.0},
        "labels.unknown": "door",
    },
    "segmentation, augmented": SEGMENTATION
    # begins at once, as the loss is about log(4), that of a guess
    | {"discriminator.augment": ["translation"], "discriminator.augment_from": 1.001, "train.accumulate": 2},
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_a_step_is_the_plain_one(classifiers, changes):
    recipe = recipe_with(classifiers, changes)
    trainer = new_trainer(recipe)
    plain = PlainTraining(trainer)
    first, *others = batches(recipe)
    trainer.step(first, 1.0)
    plain.step(first, 1.0)
    assert_same(numbers_of(trainer, 1), plain.numbers(1), TOLERANCE)
    for batch in others:
        trainer.step(batch, 0.3)
        plain.step(batch, 0.3)
    assert_same(numbers_of(trainer, 2), plain.numbers(2), TOLERANCE)


@pytest.mark.parametrize("changes", [EVERYTHING, SEGMENTATION], ids=["everything", "segmentation"])
@pytest.mark.parametrize(("precision", "of_gradients", "of_terms"), [("fp32", 5e-3, 1e-3), ("bf16", 0.5, 0.02)])
def test_a_step_in_less_precision_is_nearly_the_plain_one(classifiers, precision, of_gradients, of_terms, changes):
    recipe = recipe_with(classifiers, changes | {"train.precision": precision})
    trainer = new_trainer(recipe)
    plain = PlainTraining(trainer)
    batch = batches(recipe)[0]
    trainer.step(batch, 1.0)
    plain.step(batch, 1.0)
    found, expected = numbers_of(trainer, 1), plain.numbers(1)
    for network in trainer.networks():
        # without momentum the first moments are the gradients
        names = [name for name in expected if name.startswith(f"exp_avg {network}.")]
        gradient, plain_one = (torch.cat([x[n].flatten().double() for n in names]) for x in (found, expected))
        assert (gradient - plain_one).norm() < of_gradients * plain_one.norm()
    for name in TERMS:
        assert found[f"term {name}"].item() == pytest.approx(expected[f"term {name}"].item(), of_terms, of_terms)


@pytest.fixture(scope="module")
def right(classifiers) -> dict[str, Tensor]:
    """What one step comes to, plainly computed before anything is made wrong."""
    recipe = recipe_with(classifiers, EVERYTHING)
    plain = PlainTraining(new_trainer(recipe))
    plain.step(batches(recipe)[0], 0.5)
    return plain.numbers(1)


def step_with(classifiers: Path, changes: dict[str, object], wrong=lambda: None, lr_scale=0.5) -> dict[str, Tensor]:
    """What the trainer's step comes to with another recipe, or after ``wrong``."""
    recipe = recipe_with(classifiers, EVERYTHING | changes)
    trainer = new_trainer(recipe)
    wrong()
    trainer.restart_ema()
    trainer.step(batches(recipe)[0], lr_scale)
    return numbers_of(trainer, 1)


G, D = "exp_avg generator", "exp_avg discriminator"
# changes of the recipe that stand for a value the step forgets, and what they are to show in
FORGETS = {
    "all but the hinge": (
        {"loss.feature_matching": 0, "loss.perceptual_network": "none", "loss.color": 0, "loss.kl": 0},
        G,
    ),
    "the weight of feature matching": ({"loss.feature_matching": 1}, G),
    "the perceptual loss": ({"loss.perceptual_network": "none"}, G),
    "the weight of the perceptual loss": ({"loss.perceptual": 1}, G),
    "the colours": ({"loss.color": 0}, G),
    "the reference batch of the KL term": ({"loss.kl_reference_batch": 1}, "exp_avg encoder"),
    "which learning rate is whose": ({"train.lr_g": 4e-4, "train.lr_d": 1e-4}, "network discriminator"),
    "momentum": ({"train.beta1": 0.5}, G),
    "the accumulation": ({"train.accumulate": 1}, "running_mean"),
    "that nothing is clipped": ({"train.max_grad_norm": 0.1}, D),
    "how slow the averages are": ({"train.ema_decay": 0.1}, "ema generator"),
}


def test_the_comparison_holds_where_nothing_is_wrong(classifiers, right):
    assert_same(step_with(classifiers, {}), right, TOLERANCE)


@pytest.mark.parametrize(("changes", "where"), FORGETS.values(), ids=FORGETS)
def test_a_step_that_forgets_something_is_found_out(classifiers, right, changes, where):
    with pytest.raises(AssertionError, match=where):
        assert_same(step_with(classifiers, changes), right, TOLERANCE)


def test_a_step_that_looks_at_unknown_pixels_is_found_out(classifiers, right):
    found = step_with(classifiers, {"labels.unknown": "door", "loss.ignore_unknown": True})
    with pytest.raises(AssertionError, match=G):
        assert_same(found, right, TOLERANCE)


def test_states_of_before_an_option_existed_still_load(classifiers):
    trainer = new_trainer(recipe_with(classifiers, {}))
    trainer.step(batches(trainer.recipe)[0], 1.0)
    state = {k: deepcopy(v) for k, v in trainer.state_dict().items() if k not in ("balance", "augmentation")}
    other = Trainer(trainer.recipe, CPU)
    other.load_state_dict(state)
    for t in (trainer, other):
        t.pop_losses(1)
        t.step(batches(t.recipe)[1], 1.0)
    assert_same(numbers_of(other, 1), numbers_of(trainer, 1), 0)


PROJECTED = {"model.latent": "encoder", "discriminator.kind": "projected", "train.prior_share": 0.5}


@pytest.mark.parametrize("forgotten", [{"train.match_prior": 0}, {"discriminator.color_heads": False}])
def test_options_of_the_projected_kind_count(classifiers, forgotten):
    everything = PROJECTED | {"train.match_prior": 3, "discriminator.color_heads": True}
    steps = []
    for changes in (everything, everything | forgotten):
        recipe = recipe_with(classifiers, changes)
        trainer = new_trainer(recipe)
        for batch in batches(recipe, 2):  # the moments of the first step show in the second
            trainer.step(batch, 1.0)
        steps.append(numbers_of(trainer, 2)["network generator.fc.weight"])
    assert (steps[0] - steps[1]).abs().max() > 1e-6


def test_the_discriminator_can_learn_alone(classifiers):
    recipe = recipe_with(classifiers, EVERYTHING)
    alone, both = new_trainer(recipe), new_trainer(recipe)
    before = {name: {k: p.clone() for k, p in n.named_parameters()} for name, n in alone.networks().items()}
    averages = deepcopy(alone.ema.averages)
    alone.step(batches(recipe)[0], 1.0, generator_learns=False)
    both.step(batches(recipe)[0], 1.0)
    for name in ("generator", "encoder"):
        assert all(torch.equal(p, before[name][k]) for k, p in alone.networks()[name].named_parameters())
        assert all(torch.equal(v, averages[name][k]) for k, v in alone.ema.averages[name].items())
    for k, p in both.discriminator.named_parameters():
        assert torch.equal(alone.discriminator.get_parameter(k), p)
        assert not torch.equal(p, before["discriminator"][k]), k


def test_unknown_pixels_have_no_gradient(classifiers):
    changes = {"labels.unknown": "door", "loss.ignore_unknown": True}
    trainer = new_trainer(recipe_with(classifiers, EVERYTHING | changes))
    batch = batches(trainer.recipe)[0]
    batch["channels"][:] = 2
    before = {name: p.clone() for name, p in trainer.generator.named_parameters()}
    trainer.step(batch, 1.0)
    assert all(torch.equal(p, before[name]) for name, p in trainer.generator.named_parameters())


def test_a_step_without_the_schedule_is_found_out(classifiers, right):
    with pytest.raises(AssertionError, match="network generator"):
        assert_same(step_with(classifiers, {}, lr_scale=1.0), right, TOLERANCE)


WRONG = {
    wrong_steps.negate_the_discriminator: D,
    wrong_steps.negate_the_generator: G,
    wrong_steps.forget_the_share_of_a_part: D,
    wrong_steps.let_the_discriminator_s_loss_into_the_generator: G,
    wrong_steps.let_the_generator_s_loss_into_the_discriminator: D,
    wrong_steps.let_feature_matching_teach_the_discriminator: D,
    wrong_steps.detach_the_fakes_of_feature_matching: G,
    wrong_steps.average_raw_weights: "ema generator",
    wrong_steps.iterate_in_every_part: "weight_u",
    wrong_steps.iterate_twice: "weight_u",
}


@pytest.mark.parametrize(("wrong", "where"), WRONG.items(), ids=[wrong.__name__ for wrong in WRONG])
def test_a_step_with_a_fault_is_found_out(classifiers, right, monkeypatch, wrong, where):
    found = step_with(classifiers, {}, partial(wrong, monkeypatch))
    with pytest.raises(AssertionError, match=where):
        assert_same(found, right, TOLERANCE)


@pytest.fixture(scope="module")
def rightly_segmented(classifiers) -> dict[str, Tensor]:
    recipe = recipe_with(classifiers, SEGMENTED)
    plain = PlainTraining(new_trainer(recipe))
    plain.step(batches(recipe)[0], 1.0)
    return plain.numbers(1)


SEGMENTED = SEGMENTATION | {"labels.unknown": "door", "train.accumulate": 2}
WRONGLY_SEGMENTED = {
    wrong_steps.weigh_classes_by_their_part_of_the_batch: G,
    wrong_steps.weigh_classes_alike: D,
    wrong_steps.judge_unknown_pixels: D,
    wrong_steps.mix_the_other_way_round: D,
    wrong_steps.mix_without_borders: D,
    wrong_steps.let_mixed_logits_teach_nothing: D,
    wrong_steps.swap_fake_and_class_0: G,
}


@pytest.mark.parametrize(
    ("wrong", "where"), WRONGLY_SEGMENTED.items(), ids=[wrong.__name__ for wrong in WRONGLY_SEGMENTED]
)
def test_a_segmenting_step_with_a_fault_is_found_out(classifiers, rightly_segmented, monkeypatch, wrong, where):
    recipe = recipe_with(classifiers, SEGMENTED)
    trainer = new_trainer(recipe)
    wrong(monkeypatch)
    trainer.step(batches(recipe)[0], 1.0)
    with pytest.raises(AssertionError, match=where):
        assert_same(numbers_of(trainer, 1), rightly_segmented, TOLERANCE)


def structured(folder: Path, classifiers: Path) -> Path:
    """A recipe of few pairs that can be learned: each class has its colour, one of them stripes."""
    path = make_recipe(folder, "map", pairs=4)
    colours = np.array([[200, 90, 60], [40, 60, 160], [90, 170, 70]], np.uint8)
    labels = LabelSpace(name="tiny", classes=("wall", "window", "door"))
    config = {"labels": labels.model_dump(mode="json"), "size": [36, 40]}
    with create_packed(folder / "tiny.h5", 4, False, config, "source") as writer:
        for i in range(4):
            codes = np.zeros((36, 40), np.uint8)
            codes[4 + 2 * i : 18, 6:34] = 1
            codes[20:, 8 + 2 * i : 30] = 2
            photo = colours[codes]
            photo[::4][codes[::4] == 1] += 60
            writer.add(f"p{i}", (codes, None, photo))
        writer.finish({})
    loss = f'perceptual_network = "squeezenet"\nperceptual_weights = "{classifiers / "squeezenet.pth"}"\ncolor = 10.0'
    path.write_text(path.read_text().replace('perceptual_network = "none"', loss))
    return path


def assert_learns(folder: Path, classifiers: Path) -> None:
    """A short run comes near its photos, and its discriminator is not worse than one that says 0, whose loss is 2."""
    long = ("train.steps=30", "train.log_every=5", "train.checkpoint_every=100", "train.sample_every=100")
    rates = ("train.lr_g=0.005", "train.lr_d=0.005", "train.decay_from=1", "data.flip=false")
    widths = ("model.ngf=4", "discriminator.ndf=8")
    train(options(structured(folder, classifiers), folder / "runs", *long, *rates, *widths))
    rows = [json.loads(line) for line in (folder / "runs" / "tiny" / "stats.jsonl").read_text().splitlines()]
    first, last = rows[0], rows[-1]
    for name, share in (("color", 0.6), ("perceptual", 0.7)):
        assert last[name] < share * first[name], f"{name}: {first[name]}, then {last[name]}"
    hinge = last["d_fake"] + last["d_real"]
    assert hinge < 2.5, f"hinge of the discriminator: {hinge}"


def test_a_short_run_learns(tmp_path, classifiers):
    assert_learns(tmp_path, classifiers)


def assert_learns_to_segment(folder: Path, classifiers: Path) -> None:
    """The discriminator does better than a guess, which loses log(4) twice, and the generator better than at first."""
    long = ("train.steps=60", "train.log_every=20", "train.checkpoint_every=100", "train.sample_every=100")
    rates = ("train.lr_g=0.002", "train.lr_d=0.002", "train.decay_from=1", "data.flip=false")
    kind = ("discriminator.kind=segmentation", "loss.feature_matching=0", "loss.perceptual=0", "loss.color=0")
    widths = ("model.ngf=4", "discriminator.ndf=4")
    train(options(structured(folder, classifiers), folder / "runs", *long, *rates, *kind, *widths))
    rows = [json.loads(line) for line in (folder / "runs" / "tiny" / "stats.jsonl").read_text().splitlines()]
    first, last = rows[0], rows[-1]
    assert last["g_hinge"] < 0.95 * first["g_hinge"], f"g_hinge: {first['g_hinge']}, then {last['g_hinge']}"
    of_d = last["d_fake"] + last["d_real"]
    assert of_d < 0.9 * 2 * math.log(4), f"loss of the discriminator: {of_d}"


def test_a_short_run_learns_to_segment(tmp_path, classifiers):
    assert_learns_to_segment(tmp_path, classifiers)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["discriminator", "generator"])
def test_a_short_run_with_a_side_negated_does_not_learn_to_segment(tmp_path, classifiers, monkeypatch, side):
    wrong_steps.negate_a_side_of_segmentation(monkeypatch, side)
    with pytest.raises(AssertionError, match=r"g_hinge|of the discriminator"):
        assert_learns_to_segment(tmp_path, classifiers)


@pytest.mark.parametrize(
    ("wrong", "where"),
    [(wrong_steps.negate_the_discriminator, "hinge"), (wrong_steps.negate_the_generator, "color")],
    ids=["D", "G"],
)
def test_a_short_run_with_a_loss_negated_does_not(tmp_path, classifiers, monkeypatch, wrong, where):
    wrong(monkeypatch)
    with pytest.raises(AssertionError, match=where):
        assert_learns(tmp_path, classifiers)


@pytest.mark.parametrize(("precision", "rounded"), [("fp32", False), ("bf16", False), ("tf32", True)])
def test_products_of_a_step_are_rounded_on_request_alone(classifiers, monkeypatch, precision, rounded):
    trainer = new_trainer(recipe_with(classifiers, {"train.precision": precision}))
    found = []
    for network in trainer.networks().values():
        forward = network.forward

        def spy(*args, forward=forward, **kwargs):
            found.append((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
            return forward(*args, **kwargs)

        monkeypatch.setattr(network, "forward", spy)
    with torch.backends.cudnn.flags(allow_tf32=not rounded):
        trainer.step(batches(trainer.recipe)[0], 1.0)
    assert found == [(rounded, rounded)] * 2


def test_moments_take_the_strides_of_their_weights(classifiers):
    """The fused optimizer of a GPU pairs them by their places in memory."""
    trainer, loaded = (new_trainer(recipe_with(classifiers, {})) for _ in range(2))
    trainer.step(batches(trainer.recipe)[0], 1.0)
    state = deepcopy(trainer.state_dict())
    for optimizer in state["optimizers"]:
        for of_weight in optimizer["state"].values():
            of_weight |= {k: v.contiguous() for k, v in of_weight.items()}
    loaded.load_state_dict(state)
    for optimizer in (loaded.optimizer_g, loaded.optimizer_d):
        assert any(p.stride() != p.contiguous().stride() for p in optimizer.state)
        for p, of_weight in optimizer.state.items():
            assert all(of_weight[moment].stride() == p.stride() for moment in ("exp_avg", "exp_avg_sq"))
