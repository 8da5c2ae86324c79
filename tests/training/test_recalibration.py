"""Batch-norm statistics measured anew: they are the moments of what the generator computes."""

import pytest
import torch

from spadecli.core.architecture import Architecture
from spadecli.model.encoder import ImageEncoder, reparameterize
from spadecli.model.generator import Generator
from spadecli.model.init import initialize
from spadecli.model.semantic import SemanticMap
from spadecli.training.recalibration import deviation_change, recalibrate, with_statistics_of

ARCH = Architecture(size=(32, 32), ngf=2, z_dim=4, hidden=4, latent="encoder")


def batches(count: int, seed: int = 0, size: int = 32):
    random = torch.Generator().manual_seed(seed)
    for _ in range(count):
        channels = torch.randint(3, (4, size, size), generator=random)
        photo = torch.rand(4, 3, size, size, generator=random) * 2 - 1
        yield SemanticMap(channels, None, 3), photo, torch.randn(4, 4, generator=random)


@pytest.fixture
def networks():
    generator, encoder = Generator(ARCH, 3, spectral=False), ImageEncoder(ARCH, spectral=False)
    for i, network in enumerate((generator, encoder)):
        initialize(network, i)
        for p in network.parameters():
            p.data.mul_(20)
    return generator.eval(), encoder.eval()


def test_statistics_are_the_mean_over_batches_of_what_a_layer_sees(networks):
    generator, encoder = networks
    seen = []
    norm = generator.blocks[0].norm_0.norm
    handle = norm.register_forward_pre_hook(lambda _, x: seen.append((x[0].mean((0, 2, 3)), x[0].var((0, 2, 3)))))
    recalibrate(generator, encoder, batches(3))
    handle.remove()
    means, variances = (torch.stack(v).mean(0) for v in zip(*seen, strict=True))
    torch.testing.assert_close(norm.running_mean, means)
    torch.testing.assert_close(norm.running_var, variances)
    assert len(seen) == 3


def test_nothing_else_changes(networks):
    generator, encoder = networks
    before = {n: p.clone() for n, p in generator.named_parameters()}
    momentum = generator.blocks[0].norm_0.norm.momentum
    recalibrate(generator, encoder, batches(2))
    assert all(torch.equal(p, before[n]) for n, p in generator.named_parameters())
    assert generator.blocks[0].norm_0.norm.momentum == momentum
    assert not any(m.training for m in generator.modules())


def test_in_evaluation_the_layers_are_normalized_again(networks):
    """With wrong statistics an evaluated layer is far from mean 0 and deviation 1, with measured ones close to it."""
    generator, encoder = networks
    outputs = []
    norm = generator.blocks[3].norm_0.norm
    norm.register_forward_hook(lambda _, x, y: outputs.append(y))
    states = {"generator": {n: v.clone() for n, v in generator.state_dict().items()}}
    recalibrate(generator, encoder, batches(8))
    changes = deviation_change(states["generator"], generator.state_dict())
    assert len(changes) == sum(m.num_features for m in generator.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert max(map(abs, changes)) > 0.1
    for measured in (True, False):
        generator.load_state_dict(
            with_statistics_of(states, generator)["generator"] if measured else states["generator"]
        )
        outputs.clear()
        with torch.no_grad():
            for semantic, photo, eps in batches(2, seed=9):
                generator(semantic, reparameterize(*encoder(photo), eps))
        deviation = torch.cat(outputs).std((0, 2, 3))
        assert ((deviation - 1).abs().mean() < 0.3) == measured


def test_instance_norms_have_nothing_to_measure():
    arch = ARCH.model_copy(update={"norm": "instance", "latent": "noise", "size": (64, 64)})
    generator = Generator(arch, 3, spectral=False).eval()
    before = {n: v.clone() for n, v in generator.state_dict().items()}
    recalibrate(generator, None, batches(1, size=64))
    assert all(torch.equal(v, before[n]) for n, v in generator.state_dict().items())
    assert deviation_change(before, generator.state_dict()) == []
