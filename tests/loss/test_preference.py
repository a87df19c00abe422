import math

import pytest
import torch

from r1lab.loss.preference import pairwise_loss, pointwise_loss


def test_pairwise_by_hand():
    chosen, rejected = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 1.0])
    # -log sigmoid(2) = log(1 + e^-2) = 0.126928, -log sigmoid(-1) = log(1 + e) = 1.313262
    assert pairwise_loss(chosen, rejected, pairs=2).item() == pytest.approx((0.126928 + 1.313262) / 2, abs=1e-5)
    assert pairwise_loss(chosen + 5, rejected + 5, pairs=2).item() == pytest.approx(1.440190 / 2, abs=1e-5)


def test_pointwise_by_hand():
    chosen, rejected = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 1.0])
    # labels 1: log(1 + e^-2), log 2; labels 0: log 2, log(1 + e)
    expected = (0.126928 + 2 * math.log(2) + 1.313262) / 4
    assert pointwise_loss(chosen, rejected, pairs=2).item() == pytest.approx(expected, abs=1e-5)
    labels = torch.tensor([1.0, 1.0, 0.0, 0.0])
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(torch.cat([chosen, rejected]), labels)
    assert pointwise_loss(chosen, rejected, pairs=2).item() == pytest.approx(cross_entropy.item())


@pytest.mark.parametrize("loss", [pairwise_loss, pointwise_loss])
def test_shares_add_up_and_the_chosen_rise(loss):
    chosen, rejected = torch.randn(2, 6, generator=torch.Generator().manual_seed(0)).requires_grad_().unbind()
    whole = loss(chosen, rejected, pairs=6)
    parts = loss(chosen[:2], rejected[:2], pairs=6) + loss(chosen[2:], rejected[2:], pairs=6)
    assert parts.item() == pytest.approx(whole.item(), rel=1e-6)
    up, down = torch.autograd.grad(whole, (chosen, rejected))
    assert (up < 0).all() and (down > 0).all()


def test_extreme_scores_are_finite():
    far = torch.tensor([1e4])
    assert pairwise_loss(-far, far, pairs=1).item() == pytest.approx(2e4)
    assert pointwise_loss(-far, far, pairs=1).item() == pytest.approx(1e4)
