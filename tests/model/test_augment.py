"""What a discriminator sees, changed: as the numbers say, differentiably, and only from some step on."""

import pytest
import torch

from spadecli.model.augment import Augmentation, augment
from spadecli.model.semantic import SemanticMap

CPU = torch.device("cpu")
KINDS = ("color", "translation", "cutout")


def numbers(seed: int, count: int = 3) -> torch.Tensor:
    return torch.rand(count, 8, generator=torch.Generator().manual_seed(seed))


def images(seed: int = 0) -> torch.Tensor:
    return torch.rand(3, 3, 16, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


PLANES = torch.eye(2, dtype=torch.float64)[torch.arange(16 * 32).reshape(1, 16, 32).repeat(3, 1, 1) % 2].movedim(3, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_numbers_make_the_same_changes_and_others_do_not(kind):
    (x, y), planes = augment([images(), images(1)], PLANES, numbers(0), [kind])
    (again, _), same_planes = augment([images(), images(1)], PLANES, numbers(0), [kind])
    (other, _), _ = augment([images(), images(1)], PLANES, numbers(1), [kind])
    assert torch.equal(x, again)
    assert torch.equal(planes, same_planes)
    assert not torch.equal(x, other)
    assert torch.equal(augment([images(1)], PLANES, numbers(0), [kind])[0][0], y)  # alike in every batch
    assert torch.equal(planes, PLANES) == (kind != "translation")


@pytest.mark.parametrize("kinds", [("color",), ("translation",), ("cutout",), KINDS])
def test_gradients_pass(kinds):
    x = images()[:, :, :8, :8].requires_grad_()
    torch.autograd.gradcheck(lambda x: augment([x], PLANES[:, :, :8, :8], numbers(2), kinds)[0][0], [x])


def test_maps_move_with_the_images():
    image = PLANES.sum(1, keepdim=True).repeat(1, 3, 1, 1)
    extremes = torch.full((3, 7), 0.5)
    extremes[1, 3:5], extremes[2, 3:5] = 0.0, 0.9999
    (found,), planes = augment([image], PLANES, extremes, ["translation"])
    assert torch.equal(found[:, 0], planes.sum(1))
    assert torch.equal(planes[0], PLANES[0])
    assert torch.equal(planes[1, :, 2:, 4:], PLANES[1, :, :-2, :-4])
    assert torch.equal(planes[2, :, :-2, :-4], PLANES[2, :, 2:, 4:])
    assert planes[1, :, :2].sum() == planes[1, :, :, :4].sum() == planes[2, :, -2:].sum() == 0


def test_a_square_of_half_the_size_is_cut_out():
    (found,), _ = augment([torch.ones(1, 3, 16, 32)], PLANES[:1], torch.full((1, 8), 0.5), ["cutout"])
    assert (found == 0).sum() == 3 * 8 * 16
    assert found[:, :, 4:12, 8:24].sum() == 0


def test_changes_begin_once_the_discriminator_is_sure_and_stay():
    augmentation = Augmentation(KINDS, 0.5, CPU)
    semantic = SemanticMap(torch.zeros(3, 16, 32, dtype=torch.int64), None, 2)
    seen = []
    for hinge in (*[0.2] * 200, *[2.0] * 50):
        _, (x,) = augmentation(semantic, [images()], numbers(0))
        seen.append(not torch.equal(x, images()))
        augmentation.watch(torch.tensor(hinge))
        augmentation.watch(torch.tensor(float("nan")))
    begins = seen.index(True)
    assert seen == [False] * begins + [True] * (250 - begins)
    assert 90 < begins < 110  # 0.2 + 0.8 * 0.99^n < 0.5
    other = Augmentation(KINDS, 0.5, CPU)
    other.load_state_dict(augmentation.state_dict())
    assert torch.equal(other.average, augmentation.average)
    assert other.share == 1


def test_an_adaptive_share_follows_the_discriminator():
    """As sure as is wanted, it stays; and the images that are changed are that share of them."""
    augmentation = Augmentation(KINDS, 0.5, CPU, adaptive=True)
    shares = []
    for hinge in (*[0.2] * 350, *[2.0] * 300):
        augmentation.watch(torch.tensor(hinge))
        shares.append(augmentation.share.item())
    begins = next(i for i, share in enumerate(shares) if share)
    assert 90 < begins < 110
    assert shares[349] == pytest.approx((350 - begins) / 500)
    assert shares[-1] < 0.1
    augmentation.share.fill_(0.25)
    many = torch.rand(400, 8, generator=torch.Generator().manual_seed(0))
    x = torch.rand(400, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    semantic = SemanticMap(torch.zeros(400, 8, 8, dtype=torch.int64), None, 2)
    _, (found,) = augmentation(semantic, [x], many)
    changed = (found != x).flatten(1).any(1)
    assert torch.equal(changed, many[:, -1] < 0.25)
    assert 60 < changed.sum() < 140


def test_without_kinds_nothing_is_touched():
    semantic, x = SemanticMap(torch.zeros(3, 16, 32, dtype=torch.int64), None, 2), images()
    found, (same,) = Augmentation((), 9.0, CPU)(semantic, [x], None)
    assert found is semantic
    assert same is x
