import pytest
import torch

from r1lab.loss.clip import clipped_surrogate

RATIO = [0.5, 0.9, 1.0, 1.2, 1.5, 3.0]


def run(advantage, *, epsilon_low=0.2, epsilon_high=0.3, ratio_cap=None):
    ratio = torch.tensor([RATIO], dtype=torch.float64, requires_grad=True)
    advantages = torch.full_like(ratio, advantage, requires_grad=False)
    objective, low, high = clipped_surrogate(
        ratio, advantages, epsilon_low=epsilon_low, epsilon_high=epsilon_high, ratio_cap=ratio_cap
    )
    (gradient,) = torch.autograd.grad(objective.sum(), ratio)
    return objective[0].tolist(), low[0].tolist(), high[0].tolist(), gradient[0].tolist()


def test_positive_advantage_is_capped_above():
    # min(r A, clip(r, .8, 1.3) A), A = 2: 1, 1.8, 2, 2.4, then 1.3 * 2
    objective, low, high, gradient = run(2.0)
    assert objective == pytest.approx([1.0, 1.8, 2.0, 2.4, 2.6, 2.6])
    assert low == [False] * 6
    assert high == [False, False, False, False, True, True]
    assert gradient == [2, 2, 2, 2, 0, 0]


def test_negative_advantage_is_floored_below():
    # A = -2: at r = .5 the clip gives .8 * -2, the smaller of the two; above 1.3 r A is the smaller
    objective, low, high, gradient = run(-2.0)
    assert objective == pytest.approx([-1.6, -1.8, -2.0, -2.4, -3.0, -6.0])
    assert low == [True, False, False, False, False, False]
    assert high == [False] * 6
    assert gradient == [0, -2, -2, -2, -2, -2]


def test_ratio_cap_bounds_negative_advantages_only():
    objective, low, high, gradient = run(-2.0, ratio_cap=2.0)
    assert objective == pytest.approx([-1.6, -1.8, -2.0, -2.4, -3.0, -4.0])
    assert high == [False, False, False, False, False, True]
    assert gradient == [0, -2, -2, -2, -2, 0]
    assert run(2.0, ratio_cap=2.0) == run(2.0)
    # below 1 + epsilon_high the cap is what binds
    assert run(-2.0, ratio_cap=1.1)[0] == pytest.approx([-1.6, -1.8, -2.0, -2.2, -2.2, -2.2])


def test_zero_advantage_is_never_clipped():
    objective, low, high, gradient = run(0.0, ratio_cap=2.0)
    assert objective == [0] * 6 and gradient == [0] * 6
    assert not any(low) and not any(high)


def test_epsilon_of_ten_leaves_a_one_sided_cap():
    # interval [-9, 11]: neither 0 nor any ratio of negative advantage is clipped
    ratio = torch.tensor([[1e-6, 5.0, 10.9, 11.1, 1e-6, 50.0]])
    advantages = torch.tensor([[1.0, 1.0, 1.0, 1.0, -1.0, -1.0]])
    objective, low, high = clipped_surrogate(ratio, advantages, epsilon_low=10, epsilon_high=10, ratio_cap=None)
    torch.testing.assert_close(objective, torch.tensor([[1e-6, 5.0, 10.9, 11.0, -1e-6, -50.0]]))
    assert not low.any()
    assert high.tolist() == [[False, False, False, True, False, False]]


@pytest.mark.parametrize("ratio_cap", [None, 1.1, 2.5])
def test_gradient_is_zero_exactly_where_a_flag_says_so(ratio_cap):
    generator = torch.Generator().manual_seed(0)
    ratio = torch.randn(50, 40, dtype=torch.float64, generator=generator).exp().requires_grad_()
    advantages = torch.randn(50, 40, dtype=torch.float64, generator=generator)
    objective, low, high = clipped_surrogate(ratio, advantages, epsilon_low=0.2, epsilon_high=0.28, ratio_cap=ratio_cap)
    (gradient,) = torch.autograd.grad(objective.sum(), ratio)
    assert torch.equal(gradient == 0, low | high)
    torch.testing.assert_close(gradient[~(low | high)], advantages[~(low | high)])
    assert not (low & high).any() and low.any() and high.any()


def test_ratio_cap_below_one_is_refused():
    with pytest.raises(ValueError, match="ratio_cap must be above 1"):
        run(1.0, ratio_cap=1.0)
