"""The discriminator that segments: its shape, class balance and LabelMix against plain definitions, unknown pixels."""

import math

import numpy as np
import pytest
import torch
from networks import visible
from torch import nn

from spadecli.core.recipe import Recipe
from spadecli.core.sizes import unet_depth
from spadecli.model.augment import Augmentation
from spadecli.model.discriminator import Discriminator, build_discriminator
from spadecli.model.layers import SpectralConv2d
from spadecli.model.segmentation import SegmentationDiscriminator, balanced_cross_entropy, class_weights
from spadecli.model.semantic import NO_CLASS, BatchClasses, SemanticMap, class_shares

CLASSES, UNKNOWN = 4, 2


def network(unknown: int | None = None, label_mix: float = 10.0, depth: int = 3) -> SegmentationDiscriminator:
    built = SegmentationDiscriminator(CLASSES, unknown, depth, 4, label_mix).double().eval()
    visible(built, 0)
    for layer in built.modules():
        if isinstance(layer, SpectralConv2d):
            layer.power_iteration(20)
    built.head.weight.data.mul_(30)  # so that it is sure of some pixels
    return built


def labels(seed: int = 0, images: int = 2) -> torch.Tensor:
    """Maps of squares in which class 0 is frequent and class 3 is missing."""
    random = np.random.default_rng(seed)
    small = random.choice(CLASSES, (images, 4, 4), p=[0.6, 0.3, 0.1, 0.0])
    small[0, 0] = (0, 1, 2, 0)
    return torch.from_numpy(np.kron(small, np.ones((1, 8, 8), np.int64)))


def images(seed: int, number: int = 2) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.rand(number, 3, 32, 32, generator=random, dtype=torch.float64) * 2 - 1


def judge(judging: SegmentationDiscriminator, of: torch.Tensor, sides: torch.Tensor | None = None):
    shares = class_shares(of, CLASSES, torch.float64)
    return judging(SemanticMap(of, None, CLASSES), images(1), images(2), BatchClasses(shares, sides))


def surprises(logits: torch.Tensor) -> np.ndarray:
    """-log of the softmax over the channels."""
    values = logits.detach().numpy()
    return np.log(np.exp(values).sum(1, keepdims=True)) - values


def plain_balance(logits: torch.Tensor, of: torch.Tensor, unknown: int | None) -> float:
    """Every class of the maps counts alike, and so does every pixel of a class."""
    surprise, of = surprises(logits), of.numpy()
    found = [c for c in np.unique(of) if c not in (NO_CLASS, unknown)]
    return float(np.mean([surprise[:, c][of == c].mean() for c in found]))


@pytest.mark.parametrize("unknown", [None, UNKNOWN])
def test_losses_are_the_plain_ones(unknown):
    judging, of = network(unknown), labels()
    verdict = judge(judging, of)
    of_fake, of_real = judging.logits([images(1), images(2)])
    assert verdict.generator.item() == pytest.approx(plain_balance(of_fake, of, unknown))
    assert verdict.terms["d_real"].item() == pytest.approx(plain_balance(of_real, of, unknown))
    judged = (of != unknown).numpy() if unknown is not None else np.ones(of.shape, bool)
    assert verdict.terms["d_fake"].item() == pytest.approx(surprises(of_fake)[:, CLASSES][judged].mean())
    assert verdict.discriminator.item() == pytest.approx((verdict.terms["d_fake"] + verdict.terms["d_real"]).item())
    assert verdict.maps is None


def test_weights_are_inverse_to_the_shares_in_the_batch():
    shares = class_shares(torch.tensor([[[0, 0, 1, 3], [0, 0, 3, 0]]]), 5, torch.float64)
    assert shares.tolist() == [5 / 8, 1 / 8, 0, 2 / 8, 0]
    weights, known = class_weights(shares, None)
    np.testing.assert_allclose(weights, np.array([8 / 5, 8, 0, 4, 0]) / 3)
    assert known == 1
    weights, known = class_weights(shares, 3)
    np.testing.assert_allclose(weights, np.array([8 / 5, 8, 0, 0, 0]) / 2)
    assert known == 6 / 8
    weights, known = class_weights(torch.tensor([0.0, 1.0]), 1)
    assert (weights.tolist(), known) == ([0, 0], 0)


def test_pixels_without_a_class_count_nowhere():
    logits, of = torch.randn(2, CLASSES + 1, 4, 4).double(), torch.randint(CLASSES, (2, 4, 4))
    weights = torch.rand(CLASSES).double()
    of[0] = NO_CLASS
    found = balanced_cross_entropy(logits.log_softmax(1), of, weights)
    expected = (surprises(logits)[1].transpose(1, 2, 0) * np.eye(CLASSES + 1)[of[1]]).sum(2) * weights.numpy()[of[1]]
    assert found.item() == pytest.approx(expected.sum() / 32)


def test_the_mean_over_parts_of_a_batch_is_the_loss_of_the_batch():
    """With the shares of the whole; with those of a part it would be another."""
    judging, of = network(UNKNOWN), labels(images=2)
    shares = class_shares(of, CLASSES, torch.float64)

    def verdict(rows: slice, of_classes: torch.Tensor):
        semantic = SemanticMap(of[rows], None, CLASSES)
        return judging(semantic, images(1)[rows], images(2)[rows], BatchClasses(of_classes))

    whole, rows = verdict(slice(0, 2), shares), (slice(0, 1), slice(1, 2))
    parts = [verdict(part, shares) for part in rows]
    apart = [verdict(part, class_shares(of[part], CLASSES, torch.float64)) for part in rows]
    for name in ("d_fake", "d_real"):
        together = sum(part.terms[name] for part in parts) / 2
        assert together.item() == pytest.approx(whole.terms[name].item())
    assert (parts[0].generator + parts[1].generator).item() / 2 == pytest.approx(whole.generator.item())
    assert (apart[0].generator + apart[1].generator).item() / 2 != pytest.approx(whole.generator.item(), rel=1e-4)


def test_label_mix_is_the_plain_one():
    judging, of = network(label_mix=3.0), labels()
    sides = torch.tensor([[True, False, True, True], [False, True, False, False]])
    verdict = judge(judging, of, sides)
    fake, real = images(1).numpy(), images(2).numpy()
    of_fake, of_real = (x.detach().numpy() for x in judging.logits([images(1), images(2)]))
    mixed, expected = fake.copy(), of_fake.copy()
    for i in range(2):
        for row in range(32):
            for column in range(32):
                if sides[i, of[i, row, column]]:
                    mixed[i, :, row, column] = real[i, :, row, column]
                    expected[i, :, row, column] = of_real[i, :, row, column]
    of_mixed = judging.logits([torch.from_numpy(mixed)])[0].detach().numpy()
    assert verdict.terms["d_mix"].item() == pytest.approx(((of_mixed - expected) ** 2).mean())
    others = judge(judging, of)
    assert (verdict.discriminator - others.discriminator).item() == pytest.approx(3 * verdict.terms["d_mix"].item())
    assert verdict.generator.item() == pytest.approx(others.generator.item())


def test_it_sees_the_image_alone():
    judging = network()
    of_fake, of_real = judging.logits([images(1), images(2)])
    assert (of_fake - of_real).abs().max() > 0.01
    torch.testing.assert_close(judging.logits([images(2)])[0], of_real)
    assert of_fake.shape == (2, CLASSES + 1, 32, 32)


def test_every_pixel_is_seen_far_and_near():
    """The coarsest map and the skip connections both reach the output."""
    judging, image = network(), images(1, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(judging.logits([image])[0][0, 0, 16, 16], image)
    reach = gradient[0].abs().sum(0)
    assert reach[16, 16] > 10 * reach[0, 0] > 0


def test_the_decoder_joins_its_maps_with_the_encoder_s():
    judging, seen = network(), []
    for block in (*judging.down, *judging.up):
        block.register_forward_hook(lambda _, given, out: seen.append((given[0][0], out[0])))
    judging.logits([images(1)])
    down, up = seen[:3], seen[3:]
    assert torch.equal(up[0][0], down[2][1])
    for i in (1, 2):
        assert torch.equal(up[i][0], torch.cat([up[i - 1][1], down[2 - i][1]], 1))


def test_the_paper_s_size():
    built = SegmentationDiscriminator(150, None, 6, 64)
    count = sum(p.numel() for p in built.parameters())
    assert count / 1e6 == pytest.approx(22.26, abs=0.005)  # "22M" in the paper
    widths = [(block.conv_0.in_channels, block.conv_0.out_channels) for block in (*built.down, *built.up)]
    down = [(3, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
    assert widths == [*down, (512, 512), (1024, 256), (512, 256), (512, 128), (256, 128), (256, 64)]
    assert all(hasattr(m, "weight_u") for m in built.modules() if isinstance(m, nn.Conv2d) and m is not built.head)


@pytest.mark.parametrize(
    ("size", "window", "depth"),
    [
        ((256, 256), None, 6),
        ((256, 512), None, 6),
        ((512, 512), None, 6),
        ((128, 256), None, 5),
        ((64, 64), None, 4),
        ((32, 32), None, 3),
        ((256, 352), None, 5),
        ((256, 256), (128, 128), 6),
        ((256, 256), (32, 64), 5),
    ],
)
def test_depth_follows_the_size(size, window, depth):
    assert unet_depth([size], [window] if window else []) == depth
    small = SegmentationDiscriminator(2, None, depth, 1)
    assert small.logits([torch.zeros(1, 3, *(window or size))])[0].shape == (1, 3, *(window or size))


@pytest.mark.parametrize("kind", ["patch", "segmentation"])
def test_chance_is_what_one_that_knows_nothing_has(kind):
    judging = Discriminator(CLASSES, 2) if kind == "patch" else network()
    for p in judging.parameters():
        p.data.zero_() if p.ndim == 1 else p.data.mul_(1e-30)
    of = labels()
    classes = BatchClasses(class_shares(of, CLASSES, torch.float64))
    if kind == "patch":
        torch.nn.init.zeros_(judging.scales[0].layers[-1].weight)
        torch.nn.init.zeros_(judging.scales[1].layers[-1].weight)
    else:
        torch.nn.init.zeros_(judging.head.weight)
    verdict = judging.double()(SemanticMap(of, None, CLASSES), images(1), images(2), classes)
    assert verdict.terms["d_real"].item() == pytest.approx(judging.chance_loss)
    assert judging.chance_loss == pytest.approx(1 if kind == "patch" else math.log(CLASSES + 1))


def test_the_map_moves_with_the_image():
    of = labels()
    semantic = SemanticMap(of, torch.zeros(of.shape), CLASSES)
    changing = Augmentation(["translation"], 9.0, torch.device("cpu"))
    numbers = torch.tensor([[0.0, 0, 0, 0.999, 0.0, 0, 0], [0.0, 0, 0, 0.5, 0.5, 0, 0]])
    still, _ = changing(semantic, [images(1)], numbers)
    assert torch.equal(still.classes(), of)  # it has not begun
    changing.share.fill_(1)
    moved, (image,) = changing(semantic, [images(1)], numbers)
    expected = torch.full((32, 32), NO_CLASS)
    expected[:28, 4:] = of[0, 4:, :28]
    assert torch.equal(moved.classes()[0], expected)
    assert torch.equal(moved.classes()[1], of[1])
    assert torch.equal(image[0, :, :28, 4:], images(1)[0, :, 4:, :28])


def test_no_pixel_is_known():
    judging = network(UNKNOWN)
    verdict = judge(judging, torch.full((2, 32, 32), UNKNOWN))
    assert verdict.discriminator.item() == verdict.generator.item() == 0
    verdict.discriminator.backward()
    assert all((p.grad == 0).all() for p in judging.parameters())


def test_a_recipe_builds_it():
    tree = {
        "name": "t",
        "data": {"packed": "t.h5", "load_size": [128, 128]},
        "labels": {"name": "t", "classes": ["a", "b", "c"], "unknown": "b", "instances": True},
        "model": {"size": [128, 128]},
        "discriminator": {"kind": "segmentation", "ndf": 2, "label_mix": 7},
        "loss": {"feature_matching": 0},
        "train": {"steps": 1},
    }
    built = build_discriminator(Recipe.model_validate(tree))
    assert (built.unknown, built.label_mix, len(built.down)) == (1, 7, 5)
    assert built.head.out_channels == 4  # no logit for edges
