"""Hand-worked numbers of the value loss, and of the policy loss where each token has an advantage of its own.

Three counted tokens; under the mask stand NaN and infinity.
"""

import math

import pytest
import torch

from r1lab.loss.grpo import grpo_loss
from r1lab.loss.ppo import explained_variance, ppo_loss, value_loss
from tests.loss.test_grpo import BASE, ENTROPY, MASK, OLD, RATIO, R

VALUES = torch.tensor([[0.4, 1.2], [1.0, math.nan]], dtype=torch.float64)
OLD_VALUES = torch.tensor([[0.0, 0.0], [2.0, math.inf]], dtype=torch.float64)
RETURNS = torch.tensor([[1.0, 1.0], [0.5, 3.0]], dtype=torch.float64)
ADVANTAGES = torch.tensor([[1.0, -1.0], [-2.0, math.nan]], dtype=torch.float64)
PPO = BASE | {"value_clip": 0.5, "value_coef": 0.1, "aggregate": "token_mean"}


def run(values=VALUES, advantages=ADVANTAGES, **changes):
    logprobs = (OLD + RATIO.log()).requires_grad_()
    values = values.clone().requires_grad_()
    reference = logprobs.detach() + R.log()
    tensors = (logprobs, OLD, reference, advantages, MASK, ENTROPY, values, OLD_VALUES, RETURNS)
    out = ppo_loss(*tensors, **(PPO | changes))
    return out, *torch.autograd.grad(out.loss, (logprobs, values))


def test_each_token_has_its_own_advantage():
    # ratios 1.5, .5, 2 in [.8, 1.3]: min(1.5, 1.3) = 1.3 clipped;  min(-.5, -.8) = -.8 clipped;  -4:  3.5 / 3
    out, gradient, _ = run()
    assert out.metrics["policy_loss"].item() == pytest.approx(3.5 / 3, rel=1e-12)
    torch.testing.assert_close(gradient, torch.tensor([[0, 0], [4 / 3, 0]], dtype=torch.float64))
    assert out.metrics["clip_fraction_low"].item() == pytest.approx(1 / 3)
    assert out.metrics["clip_fraction_high"].item() == pytest.approx(1 / 3)


def test_value_loss():
    # .4 is inside: .36, slope 2 * -.6.  1.2 is kept at .5: max(.04, .25), no slope.  1 is kept at 1.5: max(.25, 1).
    # .1 / 2 / 3 of them
    out, _, gradient = run()
    assert out.metrics["value_loss"].item() == pytest.approx(0.1 * (0.36 + 0.25 + 1) / 6, rel=1e-12)
    assert out.metrics["value_clip_fraction"].item() == pytest.approx(2 / 3)
    torch.testing.assert_close(gradient, torch.tensor([[-0.02, 0], [0, 0]], dtype=torch.float64))
    assert out.loss.item() == pytest.approx(3.5 / 3 + 0.161 / 6, rel=1e-12)


def test_without_a_clip_it_is_the_squared_error():
    # .36 + .04 + .25; slopes -.6, .2, .5 times .1 / 3
    out, _, gradient = run(value_clip=None)
    assert out.metrics["value_loss"].item() == pytest.approx(0.1 * 0.65 / 6, rel=1e-12)
    assert out.metrics["value_clip_fraction"].item() == 0
    torch.testing.assert_close(gradient, torch.tensor([[-0.06, 0.02], [0.05, 0]], dtype=torch.float64) / 3)


def test_a_value_that_moved_far_and_away_from_its_return_still_learns():
    # From 0 to 2 with return 1 it is kept at .5: max(1, .25), so the plain error and its slope of 1 hold.
    loss, clipped = value_loss(torch.tensor([[2.0]]), torch.tensor([[0.0]]), torch.tensor([[1.0]]), value_clip=0.5)
    assert (loss.item(), clipped.item()) == (0.5, False)


def test_an_unchanged_value_is_never_clipped():
    values = torch.rand(50, 4, generator=torch.Generator().manual_seed(0)) * 1e3
    returns = torch.zeros(50, 4)
    loss, clipped = value_loss(values, values, returns, value_clip=1e-3)
    assert not clipped.any() and torch.equal(loss, values.square() / 2)


@pytest.mark.parametrize("aggregate", ["sequence_mean", "token_mean", "constant_length"])
def test_the_value_loss_is_a_token_mean_beside_grpos_loss(aggregate):
    options = {"aggregate": aggregate, "beta": 0.1, "kl_placement": "loss", "entropy_coef": 0.01}
    advantages = torch.tensor([1.0, -2.0], dtype=torch.float64)
    out, gradient, _ = run(advantages=advantages[:, None].expand(2, 2), **options)
    logprobs = (OLD + RATIO.log()).requires_grad_()
    policy = grpo_loss(logprobs, OLD, logprobs.detach() + R.log(), advantages, MASK, ENTROPY, **(BASE | options))
    assert out.loss.item() == pytest.approx(policy.loss.item() + 0.161 / 6, rel=1e-12)
    assert torch.equal(gradient, torch.autograd.grad(policy.loss, logprobs)[0])
    assert policy.metrics.items() <= out.metrics.items()
    assert not any(value.requires_grad for value in out.metrics.values())


def test_no_gradient_to_old_values_and_returns():
    old, returns = OLD_VALUES.clone().requires_grad_(), RETURNS.clone().requires_grad_()
    values = VALUES.clone().requires_grad_()
    out = ppo_loss(OLD, OLD, None, ADVANTAGES, MASK, None, values, old, returns, **PPO)
    gradients = torch.autograd.grad(out.loss, (old, returns), allow_unused=True)
    assert gradients == (None, None)


def test_explained_variance():
    # Returns 0, 2 have variance 1. Errors -.5, .5: variance .25.  Errors all the same explain everything.
    returns = torch.tensor([0.0, 2.0])
    assert explained_variance(torch.tensor([0.5, 1.5]), returns).item() == 0.75
    assert explained_variance(torch.tensor([5.0, 7.0]), returns).item() == 1
    assert explained_variance(torch.tensor([1.0, 1.0]), returns).item() == 0
    assert explained_variance(torch.tensor([2.0, 0.0]), returns).item() == -3
    assert explained_variance(torch.tensor([0.0, 1.0]), torch.ones(2)).isnan()


def test_errors():
    with pytest.raises(ValueError, match="loss.value_clip must be above 0"):
        run(value_clip=0.0)
    for position, name in ((3, "advantages"), (6, "values"), (7, "old_values"), (8, "returns")):
        tensors = [OLD, OLD, None, ADVANTAGES, MASK, None, VALUES, OLD_VALUES, RETURNS]
        for wrong in (tensors[position][:, :1], tensors[position][0]):
            tensors[position] = wrong
            with pytest.raises(ValueError, match=rf"{name} must be \[2, 2\]"):
                ppo_loss(*tensors, **PPO)
