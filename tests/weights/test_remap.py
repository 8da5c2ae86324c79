"""Weights brought to another label space: the same function where only carried classes occur."""

import pytest
import torch

from spadecli.core.architecture import Architecture
from spadecli.core.labelspace import LabelSpace
from spadecli.core.recipe import DiscriminatorSection
from spadecli.model.discriminator import Discriminator
from spadecli.model.generator import Generator
from spadecli.model.init import initialize
from spadecli.model.segmentation import SegmentationDiscriminator
from spadecli.model.semantic import SemanticMap
from spadecli.weights.remap import differences, discriminator_places, generator_places, match_classes, remap_classes

OLD = LabelSpace(name="old", classes=("wall", "window", "door", "unlabeled"), unknown="unlabeled", instances=True)
SPACES = {
    "identity": OLD,
    "permuted": LabelSpace(name="p", classes=("door", "unlabeled", "wall", "window"), instances=True),
    "renamed": LabelSpace(name="r", classes=("Wall", "WINDOW", "Door", "unknown"), unknown="unknown", instances=True),
    "extended": LabelSpace(name="e", classes=("tree", "wall", "door", "sky", "window"), instances=True),
    "smaller": LabelSpace(name="s", classes=("window", "wall"), instances=True),
    "edgeless": LabelSpace(name="n", classes=("window", "door", "wall")),
}
LATENTS = {"map": {"latent": "map"}, "noise": {"latent": "noise", "z_dim": 4}}


def arch_of(latent: str, **more) -> Architecture:
    return Architecture(size=(32, 32), ngf=2, hidden=8, **LATENTS[latent], **more)


def varied(network: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Weights and statistics far from what initialization gives."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=random) * 0.3)
                if name.endswith("running_var"):
                    value.abs_().add_(0.5)
    return network.eval()


def fresh(network: torch.nn.Module) -> torch.nn.Module:
    initialize(network, 7)
    return network.eval()


def semantic_pair(new: LabelSpace) -> tuple[SemanticMap, SemanticMap]:
    """The same random map of common classes in the old and the new space, with edges where both have them."""
    transfer = match_classes(OLD, new)
    classes = [(a, b) for a, b in transfer.carried if a < OLD.num_classes]
    random = torch.Generator().manual_seed(3)
    picked = torch.randint(len(classes), (2, 32, 32), generator=random)
    old, now = (torch.tensor(side)[picked] for side in zip(*classes, strict=True))
    edges = torch.randint(2, (2, 32, 32), generator=random) if new.instances else torch.zeros(2, 32, 32)
    return (
        SemanticMap(old, edges, OLD.num_classes),
        SemanticMap(now, edges if new.instances else None, new.num_classes),
    )


@pytest.mark.parametrize("latent", LATENTS)
@pytest.mark.parametrize("space", SPACES)
def test_the_generator_s_function_stays_on_carried_classes(space, latent):
    new, arch = SPACES[space], arch_of(latent)
    before = varied(Generator(arch, OLD.semantic_channels, spectral=False), 1)
    after = fresh(Generator(arch, new.semantic_channels, spectral=False))
    channels = OLD.semantic_channels, new.semantic_channels
    state = remap_classes(
        before.state_dict(), after.state_dict(), generator_places(after), channels, match_classes(OLD, new)
    )
    after.load_state_dict(state)
    z = torch.randn(2, 4, generator=torch.Generator().manual_seed(5))
    old_map, new_map = semantic_pair(new)
    with torch.no_grad():
        images = before(old_map, z if arch.uses_z else None)
        assert images.std() > 0.1
        assert (after(new_map, z if arch.uses_z else None) - images).abs().max() <= 1e-6


@pytest.mark.parametrize("space", SPACES)
def test_the_discriminator_s_function_stays_on_carried_classes(space):
    new = SPACES[space]
    before, after = varied(Discriminator(OLD.semantic_channels, 4), 2), fresh(Discriminator(new.semantic_channels, 4))
    channels = OLD.semantic_channels, new.semantic_channels
    state = remap_classes(
        before.state_dict(), after.state_dict(), discriminator_places(after), channels, match_classes(OLD, new)
    )
    after.load_state_dict(state)
    before, after = before.double(), after.double()  # instance norms of few values magnify float32's rounding
    fake, real = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    old_map, new_map = semantic_pair(new)
    with torch.no_grad():
        pairs = zip(before(old_map, fake, real).maps, after(new_map, fake, real).maps, strict=True)
        for old_scales, new_scales in pairs:
            for old_maps, new_maps in zip(old_scales, new_scales, strict=True):
                for a, b in zip(old_maps, new_maps, strict=True):
                    assert a.std() > 0
                    torch.testing.assert_close(b, a, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("space", SPACES)
def test_logits_of_carried_classes_stay(space):
    """With or without an edge channel, which is none of the classes."""
    new, transfer = SPACES[space], match_classes(OLD, SPACES[space])
    before, after = (SegmentationDiscriminator(s.num_classes, None, 3, 2) for s in (OLD, new))
    varied(before, 2)
    fresh(after)
    of_new = after.head.weight.detach().clone()
    channels = OLD.semantic_channels, new.semantic_channels
    state = remap_classes(before.state_dict(), after.state_dict(), discriminator_places(after), channels, transfer)
    after.load_state_dict(state)
    pairs = [(a, b) for a, b in transfer.carried if a < OLD.num_classes] + [(OLD.num_classes, new.num_classes)]
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    with torch.no_grad():
        (old_logits,), (new_logits,) = (network.double().logits([image]) for network in (before, after))
    for a, b in pairs:
        torch.testing.assert_close(new_logits[:, b], old_logits[:, a])
    others = [b for b in range(new.num_classes) if b not in {b for _, b in pairs}]
    assert len(others) == len([name for name in transfer.new if name != "(instance edges)"])
    assert torch.equal(after.head.weight[others].float(), of_new[others])


def test_new_classes_are_as_large_as_trained_ones():
    new = SPACES["extended"]
    before = varied(Generator(arch_of("map"), OLD.semantic_channels, spectral=False), 1)
    after = fresh(Generator(arch_of("map"), new.semantic_channels, spectral=False))
    channels = OLD.semantic_channels, new.semantic_channels
    places = generator_places(after)
    state = remap_classes(before.state_dict(), after.state_dict(), places, channels, match_classes(OLD, new))
    for name in places:
        trained = before.state_dict()[name]
        mean = trained.mean(1)
        for tree_or_sky in (0, 3):
            size = (state[name][:, tree_or_sky] - mean).std() / (trained - mean[:, None]).std()
            assert 0.5 < size < 2, name
        assert not torch.equal(state[name][:, 0], state[name][:, 3])
        assert torch.equal(state[name][:, 1], before.state_dict()[name][:, 0])
        assert torch.equal(state[name][:, -1], before.state_dict()[name][:, -1])  # the edges
    assert {name.split(".")[-2] for name in places} == {"shared", "fc"}
    assert len(places) == 1 + sum(name.endswith("shared.weight") for name in state)


def test_concatenated_maps_are_carried_too():
    arch = arch_of("noise", conditioning="concat")
    new = SPACES["extended"].model_copy(update={"classes": (*SPACES["extended"].classes, OLD.classes[3])})
    before = varied(Generator(arch, OLD.semantic_channels, spectral=False), 1)
    after = fresh(Generator(arch, new.semantic_channels, spectral=False))
    channels = OLD.semantic_channels, new.semantic_channels
    state = remap_classes(
        before.state_dict(), after.state_dict(), generator_places(after), channels, match_classes(OLD, new)
    )
    after.load_state_dict(state)
    old_map, new_map = semantic_pair(new)
    z = torch.randn(2, 4, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        assert (after(new_map, z) - before(old_map, z)).abs().max() <= 1e-6


def test_what_becomes_of_each_class_is_told():
    transfer = match_classes(OLD, SPACES["extended"])
    assert transfer.lines == [
        "classes carried: 3 (wall, door, window)",
        "classes new: 2 (tree, sky)",
        "classes dropped: 1 (unlabeled)",
    ]
    assert match_classes(OLD, OLD).lines == ["classes: all carried"]
    renamed = match_classes(OLD, SPACES["renamed"])
    assert renamed.is_identity
    assert "unlabeled -> unknown" in renamed.lines[-1]
    assert match_classes(OLD, SPACES["edgeless"]).dropped == ("unlabeled", "(instance edges)")
    assert match_classes(SPACES["edgeless"], OLD).new == ("unlabeled", "(instance edges)")
    many = LabelSpace(name="m", classes=tuple(f"c{i}" for i in range(100)))
    assert max(map(len, match_classes(OLD, many).lines)) < 120


def test_an_exact_name_goes_before_a_similar_one():
    old = LabelSpace(name="o", classes=("traffic_light", "traffic light"))
    new = LabelSpace(name="n", classes=("traffic light", "Traffic-Light"))
    assert match_classes(old, new).carried == ((1, 0), (0, 1))


def test_what_cannot_be_bridged_is_all_named():
    d = DiscriminatorSection()
    old = Architecture(ngf=16, hidden=32, kernel=1, latent="map", norm="instance")
    new = Architecture(size=(128, 128), latent="noise", spectral_norm=False)
    found = differences(old, new, DiscriminatorSection(ndf=8, num_scales=3), d)
    assert [p.split(":")[0] for p in found] == [
        "model.ngf",
        "model.hidden",
        "model.kernel",
        "model.norm",
        "model.latent",
        "discriminator.ndf",
        "discriminator.num_scales",
    ]
    assert differences(Architecture(latent="noise"), Architecture(latent="encoder", size=(128, 128)), None, d) == []
    assert differences(Architecture(z_dim=8), Architecture(), d, d) == []
