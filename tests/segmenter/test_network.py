import pytest
import torch

from spadecli.core.labelspace import LabelSpace
from spadecli.segmenter.card import SegmenterArchitecture, SegmenterCard
from spadecli.segmenter.network import SegmentationNet
from spadecli.segmenter.trainer import SegmenterTrainer, class_weights, schedule


@pytest.mark.parametrize("size", [(64, 64), (37, 53), (1, 1)])
def test_scores_for_every_pixel_of_any_size(size):
    net = SegmentationNet(SegmenterArchitecture(width=4), 5).eval()
    pictures = torch.rand(2, 3, *size)
    assert net(pictures).shape == (2, 5, *size)
    assert net.features(pictures).shape == (2, 32)


def test_the_network_knows_where_a_pixel_is():
    net = SegmentationNet(SegmenterArchitecture(width=4), 5).eval()
    logits = net(torch.full((1, 3, 64, 64), 0.5))
    assert logits[..., 16, 16].sub(logits[..., 48, 48]).abs().max() > 1e-4


def test_class_weights_average_to_one_over_the_pixels():
    counts = torch.tensor([900, 100, 0])
    weights = class_weights(counts, 0.5)
    assert weights[2] == 0
    assert weights[1] / weights[0] == pytest.approx(3)
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1)
    assert class_weights(counts, 0)[:2].tolist() == [1, 1]


def test_the_learning_rate_rises_then_falls_to_nothing():
    rates = [schedule(step, 1000) for step in range(1000)]
    assert rates[0] < 0.05
    assert max(rates) > 0.95
    assert rates[-1] < 1e-4


def test_ignored_pixels_change_nothing():
    def trained(targets):
        trainer = SegmenterTrainer(
            SegmenterArchitecture(width=4), torch.ones(3), torch.device("cpu"), ignored=255, seed=1
        )
        trainer.step(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), targets, 0, 10)
        return trainer.net.state_dict()

    first = SegmentationNet(SegmenterArchitecture(width=4), 3)
    targets = torch.full((2, 32, 32), 255, dtype=torch.uint8)
    before = SegmenterTrainer(SegmenterArchitecture(width=4), torch.ones(3), torch.device("cpu"), ignored=255, seed=1)
    after = trained(targets)  # nothing is known: no step is taken, and nothing becomes NaN
    assert all(torch.equal(after[n], v) for n, v in before.net.named_parameters())
    targets[:, :16] = 1
    assert not torch.equal(trained(targets)["head.bias"], before.net.head.bias)
    assert first.head.bias.isfinite().all()


def test_the_rule_of_the_baselines():
    arch, labels = SegmenterArchitecture(), LabelSpace(name="x", classes=("a", "b"))
    card = SegmenterCard(name="x", architecture=arch, labels=labels)
    assert not card.beats_baselines
    scores = {"miou_real": 0.4, "miou_majority": 0.1, "miou_color_position": 0.2}
    assert card.model_copy(update=scores).beats_baselines
    assert not card.model_copy(update=scores | {"miou_color_position": 0.3}).beats_baselines
