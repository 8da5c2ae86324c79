"""--init: weights, runs and NVlabs files, to the same label space and to another."""

import shutil
from pathlib import Path

import pytest
import torch
from conftest import shared
from tiny_training import make_recipe, options

from spadecli.commands.convert.command import ConvertOptions, convert
from spadecli.commands.train.command import train
from spadecli.core.errors import UserError
from spadecli.core.recipe import Recipe
from spadecli.core.recipe_files import load_recipe
from spadecli.core.report import Silent
from spadecli.model.discriminator import Discriminator
from spadecli.model.init import initialize
from spadecli.model.segmentation import SegmentationDiscriminator
from spadecli.model.semantic import SemanticMap
from spadecli.training.ema import averaged_networks
from spadecli.training.init_from import open_init
from spadecli.training.plan import plan_training
from spadecli.training.setup import new_trainer
from spadecli.weights.file import load_weights

CPU = torch.device("cpu")
OTHER = 'labels.classes=["door", "roof", {name="Wall", value=7}]'
COCO = {"num_classes": 40, "dont_care": True, "instance": True, "crop_size": 64}


class Notes(Silent):
    def __init__(self):
        self.notes, self.warnings = [], []

    def note(self, text, level=0):
        self.notes.append(text)

    def warn(self, text):
        self.warnings.append(text)


def recipe_of(folder: Path, *overrides: str) -> Recipe:
    return load_recipe(make_recipe(folder), overrides).recipe


def nvlabs_d(path: Path, channels: int, ndf: int = 4) -> Discriminator:
    """A discriminator, and its file as the published code writes it (keys as in the specification)."""
    network = Discriminator(channels, ndf)
    initialize(network, 5)
    state = network.state_dict()
    theirs = {}
    for scale in (0, 1):
        own = f"scales.{scale}.layers"
        for layer in (0, 4):
            for leaf in ("weight", "bias"):
                theirs[f"discriminator_{scale}.model{layer}.0.{leaf}"] = state[f"{own}.{layer}.{leaf}"] + 0.01
        for layer in (1, 2, 3):
            for leaf, name in (("weight_orig", "weight"), ("weight_u", "weight_u"), ("weight_v", "weight_v")):
                theirs[f"discriminator_{scale}.model{layer}.0.0.{leaf}"] = state[f"{own}.{layer}.{name}"]
    torch.save(theirs, path)
    for scale in network.scales:
        for layer in (0, 4):
            for leaf in (scale.layers[layer].weight, scale.layers[layer].bias):
                leaf.data += 0.01
    return network.eval()


def same_discriminators(a: Discriminator, b: Discriminator, maps: tuple[SemanticMap, SemanticMap]) -> None:
    random = torch.Generator().manual_seed(1)
    fake, real = torch.rand(2, 1, 3, *maps[0].size, generator=random)
    with torch.no_grad():
        of_a, of_b = a.eval()(maps[0], fake, real), b.eval()(maps[1], fake, real)
        for x, y in zip(of_a.maps, of_b.maps, strict=True):
            for xs, ys in zip(x, y, strict=True):
                for p, q in zip(xs, ys, strict=True):
                    torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-5)


def test_another_kind_of_discriminator_begins_fresh(tmp_path):
    first = train(options(make_recipe(tmp_path), tmp_path / "runs"))
    recipe = recipe_of(tmp_path, "discriminator.kind=projected", "discriminator.features=squeezenet")
    start = open_init(first.run_dir, recipe)
    assert start.discriminator is None
    assert start.lines(recipe)[0].endswith("generator, encoder (fresh: discriminator)")


SEGMENTING = ("discriminator.kind=segmentation", "loss.feature_matching=0")


def test_a_discriminator_that_segments_keeps_the_logits_of_its_classes(tmp_path):
    first = train(options(make_recipe(tmp_path), tmp_path / "runs", *SEGMENTING))
    recipe = recipe_of(tmp_path, OTHER, *SEGMENTING, "discriminator.label_mix=3")
    start = open_init(first.run_dir, recipe)
    assert start.lines(recipe)[:2] == [
        f"starting from {first.weights}: generator, encoder, discriminator",
        "classes carried: 2 (door, Wall)",
    ]
    trainer = new_trainer(recipe, CPU, start)
    saved = torch.load(first.run_dir / "state.pt", weights_only=True)["trainer"]["networks"]["discriminator"]
    old = SegmentationDiscriminator(3, None, 3, 2)
    old.load_state_dict(saved)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        (before,), (after,) = (network.eval().logits([image]) for network in (old, trainer.discriminator))
    # wall, window, door, fake -> door, roof, Wall, fake
    torch.testing.assert_close(after[:, [0, 2, 3]], before[:, [2, 0, 3]])
    assert (after[:, 1] - before[:, 1]).abs().max() > 1e-4


def test_a_discriminator_of_another_depth_begins_fresh(tmp_path):
    first = train(options(make_recipe(tmp_path), tmp_path / "runs", *SEGMENTING))
    recipe = recipe_of(tmp_path, *SEGMENTING, "model.size=[64,64]", "data.load_size=[72,80]")
    start = open_init(first.run_dir, recipe)
    assert start.lines(recipe)[0].endswith("generator, encoder (fresh: discriminator)")
    same = recipe_of(tmp_path, *SEGMENTING)
    assert open_init(first.run_dir, same).lines(same)[0].endswith("generator, encoder, discriminator")


def test_a_run_gives_its_discriminator_too(tmp_path):
    first = train(options(make_recipe(tmp_path), tmp_path / "runs"))
    recipe = recipe_of(tmp_path, OTHER)
    start = open_init(first.run_dir, recipe)
    trainer = new_trainer(recipe, CPU, start)
    saved = torch.load(first.run_dir / "state.pt", weights_only=True)["trainer"]["networks"]["discriminator"]
    old = Discriminator(3, 2)
    old.load_state_dict(saved)
    channels = torch.randint(2, (1, 32, 32), generator=torch.Generator().manual_seed(2))
    maps = SemanticMap(2 * (1 - channels), None, 3), SemanticMap(2 * channels, None, 3)  # door and wall only
    same_discriminators(old, trainer.discriminator, maps)
    z = torch.randn(1, 4, generator=torch.Generator().manual_seed(3))
    generator = averaged_networks(recipe, trainer.ema.averages, CPU)[0]
    with torch.no_grad():
        image = load_weights(first.weights)[1](maps[0], z)
        assert (generator(maps[1], z) - image).abs().max() <= 1e-6
    assert start.lines(recipe) == [
        f"starting from {first.weights}: generator, encoder, discriminator",
        "classes carried: 2 (door, Wall)",
        "classes new: 1 (roof)",
        "classes dropped: 1 (window)",
        "carried under another name: 1 (wall -> Wall)",
    ]
    with pytest.raises(UserError, match="not the folder of a run"):
        open_init(tmp_path, recipe)
    with pytest.raises(UserError) as e:
        open_init(first.run_dir / "state.pt", recipe)
    assert str(first.run_dir) in e.value.hint


def test_training_on_another_label_space_says_what_becomes_of_the_classes(tmp_path):
    from spadecli.core.labelspace import LabelSpace
    from spadecli.data.packed import Packed, create_packed

    first = train(options(make_recipe(tmp_path), tmp_path / "runs"))
    labels = LabelSpace(name="tiny", classes=("door", "roof", "wall", "window"))
    config = {"labels": labels.model_dump(mode="json"), "size": [36, 40]}
    old = Packed(tmp_path / "tiny.h5")
    with create_packed(tmp_path / "other.h5", len(old), False, config, "s") as writer:
        for i, name in enumerate(old.names):
            writer.add(name, old.get(i))
        writer.finish(
            {"classes": [{"name": "roof", "pixels": 0, "images": 0}, {"name": "wall", "pixels": 3, "images": 2}]}
        )
    notes = Notes()
    overrides = ('labels.classes=["door", "roof", "wall", "window"]', f"data.packed={tmp_path / 'other.h5'}")
    more = options(make_recipe(tmp_path), tmp_path / "more", *overrides, init=first.weights)
    plan = plan_training(more)
    assert "classes carried: 3 (door, wall, window)" in plan.notes
    assert "never seen in the training pairs: roof" in plan.warnings[0]
    assert train(more, notes).finished
    assert set(plan.notes) <= set(notes.notes)
    assert notes.warnings == list(plan.warnings)
    again = Notes()
    train(more, again)
    assert not again.warnings


def test_every_difference_that_cannot_be_bridged_is_in_one_error(tmp_path):
    first = train(options(make_recipe(tmp_path), tmp_path / "runs"))
    recipe = recipe_of(tmp_path, "model.ngf=4", "model.hidden=8", "model.latent=map", "discriminator.ndf=3")
    with pytest.raises(UserError) as e:
        open_init(first.run_dir, recipe)
    assert e.value.problems == (
        "model.ngf: 2 -> 4",
        "model.hidden: 4 -> 8",
        "model.latent: encoder -> map",
        "discriminator.ndf: 2 -> 3",
    )


def test_with_and_without_an_encoder_are_the_same_generator(tmp_path):
    first = train(options(make_recipe(tmp_path, "noise"), tmp_path / "runs"))
    recipe = recipe_of(tmp_path)
    start = open_init(first.weights, recipe)
    assert start.lines(recipe)[0].endswith("generator (fresh: encoder, discriminator)")
    assert new_trainer(recipe, CPU, start).encoder is not None


@pytest.fixture
def coco(tmp_path):
    """NVlabs' G of 42 channels, with a discriminator beside it."""
    folder = tmp_path / "nvlabs"
    folder.mkdir()
    shutil.copy(shared("data", "nvlabs_parity", "coco", "latest_net_G.pth"), folder / "20_net_G.pth")
    return folder / "20_net_G.pth", nvlabs_d(folder / "20_net_D.pth", 42)


def coco_recipe(tmp_path: Path, *overrides: str, classes: list[str] | None = None) -> Recipe:
    names = classes or [*(f"class {i}" for i in range(40)), "unknown"]
    own = ("labels.instances=true", f"labels.classes={names}".replace("'", '"'), "labels.unknown=unknown")
    net = ("model.size=[64,64]", "data.load_size=[64,64]", "model.ngf=2", "model.hidden=128", "model.latent=map")
    return recipe_of(tmp_path, *own, *net, "discriminator.ndf=4", *overrides)


def test_nvlabs_files_start_a_training(tmp_path, coco):
    path, discriminator = coco
    recipe = coco_recipe(tmp_path)
    start = open_init(path, recipe)
    assert start.lines(recipe) == [f"starting from {path}: generator, discriminator", "classes: all carried"]
    trainer = new_trainer(recipe, CPU, start)
    weights = convert(ConvertOptions(path, tmp_path / "c.safetensors", **COCO)).path
    channels = torch.randint(41, (1, 64, 64), generator=torch.Generator().manual_seed(2))
    semantic = SemanticMap(channels, channels % 2, 41)
    same_discriminators(discriminator, trainer.discriminator, (semantic, semantic))
    with torch.no_grad():
        expected = load_weights(weights)[1](semantic)
        given = averaged_networks(recipe, {"generator": start.generator}, CPU)[0]
        assert (given(semantic) - expected).abs().max() <= 1e-6
        # the trained form divides by a sigma that is 1 to float32's rounding, which these random weights magnify
        assert (trainer.generator.eval()(semantic) - expected).abs().max() <= 1e-4
        assert (averaged_networks(recipe, trainer.ema.averages, CPU)[0](semantic) - expected).abs().max() <= 1e-4


def test_nvlabs_files_start_a_training_on_other_classes(tmp_path, coco):
    path, discriminator = coco
    (tmp_path / "source.toml").write_text(
        'extends = "tiny.toml"\nname = "source"\nlabels.instances = true\nlabels.unknown = "unknown"\n'
        f"labels.classes = {[*(f'class {i}' for i in range(40)), 'unknown']}\n"
    )
    recipe = coco_recipe(tmp_path, classes=["class 7", "new", "unknown", "class 3"])
    with pytest.raises(UserError) as e:
        open_init(path, recipe)
    assert "42 channels" in e.value.message
    assert "--init-labels" in e.value.hint
    start = open_init(path, recipe, str(tmp_path / "source.toml"))
    assert start.lines(recipe)[1:3] == ["classes carried: 3 (class 7, unknown, class 3)", "classes new: 1 (new)"]
    trainer = new_trainer(recipe, CPU, start)
    picked = torch.randint(3, (1, 64, 64), generator=torch.Generator().manual_seed(2))
    old, new = torch.tensor([7, 40, 3])[picked], torch.tensor([0, 2, 3])[picked]
    maps = SemanticMap(old, picked % 2, 41), SemanticMap(new, picked % 2, 4)
    same_discriminators(discriminator, trainer.discriminator, maps)
    with pytest.raises(UserError, match="3 channels"):
        open_init(path, recipe, str(make_recipe(tmp_path)))


def test_nvlabs_encoder_and_crop_size_are_found(tmp_path):
    path = shared("data", "nvlabs_parity", "facades_vae", "latest_net_G.pth")
    classes = [f"class {i}" for i in range(13)]
    own = (f"labels.classes={classes}".replace("'", '"'), "model.ngf=2", "model.hidden=128", "model.z_dim=256")
    recipe = recipe_of(tmp_path, *own)  # 32x32, the checkpoint's crop is 64
    start = open_init(path, recipe)
    assert start.architecture.size == (64, 64)
    assert start.lines(recipe)[0].endswith(": generator, encoder (fresh: discriminator)")
    trainer = new_trainer(recipe, CPU, start)
    assert trainer.generator.fc.weight.shape == (32, 256)


@pytest.mark.parametrize("change", ["missing", "shape", "left over", "code"])
def test_wrong_discriminators_are_named(tmp_path, coco, change):
    path, _ = coco
    file = path.with_name("20_net_D.pth")
    state = torch.load(file, weights_only=True)
    if change == "missing":
        del state["discriminator_1.model2.0.0.weight_u"]
    elif change == "shape":
        state["discriminator_0.model4.0.bias"] = torch.zeros(3)
    elif change == "left over":
        state["extra"] = torch.zeros(1)
    torch.save({"x": Path} if change == "code" else state, file)
    with pytest.raises(UserError) as e:
        open_init(path, coco_recipe(tmp_path))
    assert "20_net_D.pth" in e.value.message
    expected = {
        "missing": "discriminator_1.model2.0.0.weight_u: missing",
        "shape": "discriminator_0.model4.0.bias: shape [3], expected [1]",
        "left over": "extra: left over",
    }
    if change in expected:
        assert expected[change] in e.value.problems


def test_a_discriminator_s_file_is_refused_in_place_of_the_generator_s(tmp_path, coco):
    with pytest.raises(UserError, match="not a SPADE generator") as e:
        open_init(coco[0].with_name("20_net_D.pth"), coco_recipe(tmp_path))
    assert "NAME_net_G.pth" in e.value.hint


def test_published_label_spaces_are_known_by_their_channels(tmp_path, coco):
    from spadecli.training.init_from import _labels_of_nvlabs

    recipe = recipe_of(tmp_path)
    for channels, name in ((184, "coco-stuff"), (151, "ade20k"), (36, "cityscapes"), (3, "tiny")):
        assert _labels_of_nvlabs(coco[0], channels, recipe, None).name == name


def test_weights_that_saw_the_validation_pairs_are_told_of(tmp_path):
    recipe = recipe_of(tmp_path, "data.source=S")
    first = train(options(make_recipe(tmp_path), tmp_path / "runs", "data.source=S"))
    watched = recipe_of(tmp_path, "data.source=S", "validation.every=2", "validation.pairs=2")
    assert open_init(first.weights, watched).may_have_seen(watched)
    clean = train(
        options(make_recipe(tmp_path), tmp_path / "w", "data.source=S", "validation.every=3", "validation.pairs=2")
    )
    assert not open_init(clean.weights, watched).may_have_seen(watched)
    assert not open_init(first.weights, recipe_of(tmp_path)).may_have_seen(recipe_of(tmp_path))
    assert recipe.data.source == "S"
