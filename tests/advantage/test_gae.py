import math

import pytest
import torch

from r1lab.advantage.gae import gae, gae_advantages, whitened

# Three tokens, a reward on the last, gamma .5, lambda .5:
# delta_2 = 1 - .6 = .4;  delta_1 = .5 * .6 - .4 = -.1;  delta_0 = .5 * .4 - .2 = 0
# A_2 = .4;  A_1 = -.1 + .25 * .4 = 0;  A_0 = 0 + .25 * 0 = 0;  returns: A + V
REWARDS = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
VALUES = torch.tensor([[0.2, 0.4, 0.6]], dtype=torch.float64)
ALL = torch.ones(1, 3, dtype=torch.bool)

LENGTHS = [4, 1, 6, 0, 3]
WIDTH = 6
MASK = torch.arange(WIDTH) < torch.tensor(LENGTHS)[:, None]


def draw(seed):
    return torch.randn(5, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def equal(actual, expected):
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_by_hand():
    advantages, returns = gae(REWARDS, VALUES, ALL, gamma=0.5, gae_lambda=0.5)
    equal(advantages, [[0.0, 0.0, 0.4]])
    equal(returns, [[0.2, 0.4, 1.0]])


def test_lambda_1_is_the_discounted_return_less_the_value():
    # rewards to come: .25, .5, 1
    advantages, returns = gae(REWARDS, VALUES, ALL, gamma=0.5, gae_lambda=1.0)
    equal(advantages, [[0.05, 0.1, 0.4]])
    equal(returns, [[0.25, 0.5, 1.0]])


def test_lambda_0_is_the_td_error():
    advantages, returns = gae(REWARDS, VALUES, ALL, gamma=1.0, gae_lambda=0.0)
    # .4 - .2, .6 - .4, 1 - .6
    equal(advantages, [[0.2, 0.2, 0.4]])
    equal(returns, [[0.4, 0.6, 1.0]])


def test_rewards_on_every_token_add_up():
    # gamma 1, lambda 1: what is still to come is 1, 1.5, 1
    rewards = torch.tensor([[-0.5, 0.5, 1.0]], dtype=torch.float64)
    equal(gae(rewards, VALUES, ALL, gamma=1.0, gae_lambda=1.0)[0], [[0.8, 1.1, 0.4]])


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.0])
@pytest.mark.parametrize("gae_lambda", [1.0, 0.95, 0.0])
def test_equals_the_sum_of_the_definition(gamma, gae_lambda):
    # eq. 16: A_t = sum over l of (gamma lambda)^l delta_{t+l}
    rewards, values = draw(0), draw(1)
    advantages, returns = gae(rewards, values, MASK, gamma=gamma, gae_lambda=gae_lambda)
    for b, length in enumerate(LENGTHS):
        r, v = rewards[b].tolist(), [*values[b, :length].tolist(), 0.0]
        deltas = [r[t] + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            expected = sum((gamma * gae_lambda) ** (k - t) * deltas[k] for k in range(t, length))
            assert advantages[b, t].item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
            assert returns[b, t].item() == pytest.approx(expected + v[t], rel=1e-12, abs=1e-12)


def test_each_row_equals_the_row_alone():
    rewards, values = draw(2), draw(3)
    together = gae(rewards, values, MASK, gamma=0.9, gae_lambda=0.95)
    for b, length in enumerate(LENGTHS):
        row = slice(b, b + 1), slice(0, length)
        if length:
            alone = gae(rewards[row], values[row], MASK[row], gamma=0.9, gae_lambda=0.95)
            for whole, part in zip(together, alone, strict=True):
                assert torch.equal(whole[row], part)
        assert all((x[b, length:] == 0).all() for x in together)


@pytest.mark.parametrize("fill", [math.nan, math.inf, 1e30])
def test_masked_tokens_change_nothing(fill):
    rewards, values = draw(4), draw(5)
    dirty = (torch.where(MASK, x, fill) for x in (rewards, values))
    expected = gae_advantages(rewards, values, MASK, gamma=0.9, gae_lambda=0.95, whiten=True)
    actual = gae_advantages(*dirty, MASK, gamma=0.9, gae_lambda=0.95, whiten=True)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
    assert expected[0].abs().max() > 0.1


def test_a_masked_token_in_the_middle_is_passed_over():
    gap = torch.tensor([[True, False, True, True]])
    rewards, values = (torch.cat([x[:, :1], torch.full((1, 1), math.nan), x[:, 1:]], dim=1) for x in (REWARDS, VALUES))
    advantages, returns = gae(rewards, values, gap, gamma=0.5, gae_lambda=1.0)
    equal(advantages, [[0.05, 0.0, 0.1, 0.4]])
    equal(returns, [[0.25, 0.0, 0.5, 1.0]])


def test_no_gradient_goes_into_the_targets():
    values = VALUES.clone().requires_grad_()
    assert not any(x.requires_grad for x in gae(REWARDS, values, ALL, gamma=1.0, gae_lambda=0.95))


def test_whitening_by_hand():
    # counted 1, 3, 5: mean 3, variance (4 + 0 + 4) / 3
    advantages = torch.tensor([[1.0, 3.0], [5.0, 99.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True], [True, False]])
    step = 2 / math.sqrt(8 / 3)
    equal(whitened(advantages, mask), [[-step, 0.0], [step, 0.0]])


def test_whitening_of_large_advantages_does_not_overflow():
    advantages, mask = draw(6).float(), torch.ones(draw(6).shape, dtype=torch.bool)
    assert torch.equal(whitened(advantages * 2.0**110, mask), whitened(advantages, mask))


def test_whitening_of_equal_advantages_is_zero_and_not_rounding():
    advantages = torch.full((7, 3), 0.1)
    assert (whitened(advantages, torch.ones(7, 3, dtype=torch.bool)) == 0).all()
    assert (whitened(advantages, torch.zeros(7, 3, dtype=torch.bool)) == 0).all()


def test_whitening_leaves_the_returns_alone():
    options = {"gamma": 1.0, "gae_lambda": 0.95}
    plain, returns = gae(draw(6), draw(7), MASK, **options)
    white, same = gae_advantages(draw(6), draw(7), MASK, whiten=True, **options)
    assert torch.equal(returns, same)
    assert torch.equal(white, whitened(plain, MASK)) and not torch.equal(white, plain)
    assert torch.equal(gae_advantages(draw(6), draw(7), MASK, whiten=False, **options)[0], plain)


def test_errors_name_what_is_wrong():
    options = {"gamma": 1.0, "gae_lambda": 1.0}
    for arguments in ((REWARDS[0], VALUES, ALL), (REWARDS, VALUES[:, :1], ALL), (REWARDS, VALUES, ALL[:, :2])):
        with pytest.raises(ValueError, match=r"must all be \[B, T\]"):
            gae(*arguments, **options)
    with pytest.raises(ValueError, match="must be bool"):
        gae(REWARDS, VALUES, ALL.double(), **options)
    for name in options:
        with pytest.raises(ValueError, match=f"advantage.{name} must be from 0 to 1, got 1.5"):
            gae(REWARDS, VALUES, ALL, **(options | {name: 1.5}))
