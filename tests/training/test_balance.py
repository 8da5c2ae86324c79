"""Weights of loss terms by what they do: shares of the gradient at the image, whatever the terms' own sizes."""

import pytest
import torch

from spadecli.core.recipe import LossSection
from spadecli.training.balance import EVERY, LossBalance

SHARES = {"adversarial": 1.0, "color": 3.0}
LOSS = LossSection(color=1.0, feature_matching=1.0, balance=SHARES, balance_norm=2.0)
CPU = torch.device("cpu")


def terms(image: torch.Tensor, hinge: float, color: float) -> dict[str, torch.Tensor]:
    """Terms whose gradients at the image have these norms."""
    direction = torch.ones_like(image) / image.numel() ** 0.5
    parts = {"g_hinge": hinge, "color": color, "feature_matching": 5.0}
    return {name: (image * direction).sum() * size for name, size in parts.items()}


def image() -> torch.Tensor:
    return torch.zeros(2, 3, 4, 4, requires_grad=True)


@pytest.mark.parametrize(("hinge", "color"), [(1.0, 1.0), (1e-3, 50.0), (7.0, 1e-4)])
def test_each_term_gets_its_share_of_the_norm(hinge, color):
    balance, x = LossBalance(LOSS, CPU, torch.float32), image()
    values = terms(x, hinge, color)
    balance.measure(values, x)
    weights = balance.weights()
    assert weights.keys() == {"g_hinge", "color"}
    norms = {n: torch.autograd.grad(w * values[n], x, retain_graph=True)[0].norm().item() for n, w in weights.items()}
    assert norms == pytest.approx({"g_hinge": 0.5, "color": 1.5}, rel=1e-4)


def test_weights_follow_slowly_and_are_measured_now_and_then():
    balance, x = LossBalance(LOSS, CPU, torch.float32), image()
    measured = []
    for step in range(3 * EVERY):
        balance.measure(terms(x, 1.0 if step == 0 else 2.0, 1.0), x)
        measured.append(balance.norms["g_hinge"].item())
    assert len(set(measured)) == 3
    assert measured[0] == pytest.approx(1)
    assert 1 < measured[EVERY] < measured[-1] < 2


def test_terms_that_are_off_or_unnamed_are_left_alone():
    loss = LOSS.model_copy(update={"color": 0.0})
    balance = LossBalance(loss, CPU, torch.float32)
    assert balance.shares == {"g_hinge": pytest.approx(0.5)}
    assert not LossBalance(LossSection(), CPU, torch.float32).weights()


def test_it_resumes_where_it_was():
    first, x = LossBalance(LOSS, CPU, torch.float32), image()
    for _ in range(EVERY + 3):
        first.measure(terms(x, 1.0, 2.0), x)
    second = LossBalance(LOSS, CPU, torch.float32)
    second.load_state_dict(first.state_dict())
    for _ in range(EVERY):
        for balance in (first, second):
            balance.measure(terms(x, 5.0, 2.0), x)
    assert first.weights() == second.weights()


def test_several_processes_weigh_alike():
    balance, x = LossBalance(LOSS, CPU, torch.float32), image()
    balance.measure(terms(x, 1.0, 2.0), x, mean=lambda norms: norms * 10)
    assert balance.norms["color"].item() == pytest.approx(20)
