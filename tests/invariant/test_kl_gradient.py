"""The expected gradient of each KL estimator in each place, exactly, by enumerating all outcomes.

A completion of one token is one of six outcomes; the rows of a "batch" are the outcomes, weighted by the probability
with which the sampling policy draws them.
"""

import itertools

import pytest
import torch

from r1lab.loss.kl import KL_ESTIMATORS, k2, kl_warning, reward_penalty
from r1lab.loss.ratio import importance_ratio

OUTCOMES = 6


def draw(seed, *size):
    return torch.randn(*size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


THETA = draw(0, OUTCOMES)
REFERENCE = draw(1, OUTCOMES).log_softmax(-1)
OLDER = (THETA + 0.5 * draw(2, OUTCOMES)).log_softmax(-1)
ALL = torch.ones(OUTCOMES, 1, dtype=torch.bool)


def gradient_of(function):
    theta = THETA.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(theta.log_softmax(-1)), theta)
    return gradient


REVERSE = gradient_of(lambda policy: (policy.exp() * (policy - REFERENCE)).sum())
FORWARD = gradient_of(lambda policy: (REFERENCE.exp() * (REFERENCE - policy)).sum())


def expected_gradient(loss_of_token, *, off_policy):
    """Gradient of E[loss], the expectation over the sampling policy being no part of the graph."""

    def expectation(policy):
        sampler = OLDER if off_policy else policy.detach()
        ratio = importance_ratio(policy[:, None], sampler[:, None], ALL, level="token")
        losses = loss_of_token(policy[:, None], REFERENCE[:, None], ratio)
        return (sampler.exp() * losses.squeeze(1)).sum()

    return gradient_of(expectation)


def in_reward(estimator):
    """The penalty multiplies the policy-gradient term as a negative reward does."""

    def loss(logprobs, ref_logprobs, ratio):
        return ratio * reward_penalty(logprobs, ref_logprobs, ALL, estimator, 1.0)[:, None]

    return loss


def same(a, b):
    return torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def test_the_two_directions_differ():
    assert (REVERSE - FORWARD).norm() / REVERSE.norm() > 0.1


def test_k1_in_the_loss_is_nothing_on_policy():
    assert same(expected_gradient(KL_ESTIMATORS["k1"], off_policy=False), torch.zeros(OUTCOMES).double())


def test_k1_in_the_loss_off_policy_ignores_the_reference():
    # E_old[grad log pi] = -grad KL(old || policy)
    towards_old = gradient_of(lambda policy: (OLDER.exp() * policy).sum())
    assert same(expected_gradient(KL_ESTIMATORS["k1"], off_policy=True), towards_old)
    assert towards_old.norm() > 0.01


def test_k2_in_the_loss():
    assert same(expected_gradient(KL_ESTIMATORS["k2"], off_policy=False), REVERSE)
    assert not same(expected_gradient(KL_ESTIMATORS["k2"], off_policy=True), REVERSE)


def test_k2_weighed_by_the_ratio_is_right_only_with_the_ratio_detached():
    def detached(logprobs, ref_logprobs, ratio):
        return ratio.detach() * k2(logprobs, ref_logprobs)

    def attached(logprobs, ref_logprobs, ratio):
        return ratio * k2(logprobs, ref_logprobs)

    for off_policy in (False, True):
        assert same(expected_gradient(detached, off_policy=off_policy), REVERSE)
        assert not same(expected_gradient(attached, off_policy=off_policy), REVERSE)


def test_k3_in_the_loss_is_the_forward_kl_on_policy():
    assert same(expected_gradient(KL_ESTIMATORS["k3"], off_policy=False), FORWARD)
    off_policy = expected_gradient(KL_ESTIMATORS["k3"], off_policy=True)
    assert not same(off_policy, FORWARD) and not same(off_policy, REVERSE)


def test_ratio_k3_in_the_loss():
    for off_policy in (False, True):
        assert same(expected_gradient(KL_ESTIMATORS["ratio_k3"], off_policy=off_policy), REVERSE)


def test_ratio_must_stay_in_the_graph():
    def detached(logprobs, ref_logprobs, ratio):
        return KL_ESTIMATORS["ratio_k3"](logprobs, ref_logprobs, ratio.detach())

    assert same(expected_gradient(detached, off_policy=False), FORWARD)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [("k1", REVERSE), ("k3", REVERSE - FORWARD), ("ratio_k3", REVERSE - FORWARD)],
)
def test_in_the_reward(estimator, expected):
    assert same(expected_gradient(in_reward(estimator), off_policy=False), expected)


@pytest.mark.parametrize(("estimator", "off_policy"), list(itertools.product(KL_ESTIMATORS, [False, True])))
def test_a_warning_is_given_exactly_where_the_gradient_is_wrong_in_the_loss(estimator, off_policy):
    right = same(expected_gradient(KL_ESTIMATORS[estimator], off_policy=off_policy), REVERSE)
    assert (kl_warning(estimator, "loss", off_policy=off_policy) is None) == right


@pytest.mark.parametrize("estimator", KL_ESTIMATORS)
def test_a_warning_is_given_exactly_where_the_gradient_is_wrong_in_the_reward(estimator):
    right = same(expected_gradient(in_reward(estimator), off_policy=False), REVERSE)
    assert (kl_warning(estimator, "reward") is None) == right


@pytest.mark.parametrize("estimator", ["k1", "k3", "ratio_k3"])
def test_mean_over_the_policy_is_the_exact_kl(estimator):
    policy = THETA.log_softmax(-1)
    exact = (policy.exp() * (policy - REFERENCE)).sum()
    mean = (policy.exp() * KL_ESTIMATORS[estimator](policy, REFERENCE, torch.ones(OUTCOMES))).sum()
    torch.testing.assert_close(mean, exact)
    weighed = (OLDER.exp() * KL_ESTIMATORS["ratio_k3"](policy, REFERENCE, (policy - OLDER).exp())).sum()
    torch.testing.assert_close(weighed, exact)


def test_mean_of_k2_is_not():
    policy = THETA.log_softmax(-1)
    exact = (policy.exp() * (policy - REFERENCE)).sum()
    assert ((policy.exp() * k2(policy, REFERENCE)).sum() - exact).abs() > 0.01


class TwoTokens:
    """Completions of two tokens out of three, the second depending on the first: nine outcomes."""

    first, second = draw(3, 3), draw(4, 3, 3)
    ref_first, ref_second = draw(5, 3).log_softmax(-1), draw(6, 3, 3).log_softmax(-1)
    mask = torch.ones(9, 2, dtype=torch.bool)

    @staticmethod
    def rows(first, second):
        return torch.stack([first[:, None].expand(3, 3), second], dim=-1).reshape(9, 2)

    @classmethod
    def gradient(cls, function):
        """Gradients of function(logprobs [9, 2], ref_logprobs [9, 2], probability of each row, detached)."""
        first, second = cls.first.clone().requires_grad_(), cls.second.clone().requires_grad_()
        logprobs = cls.rows(first.log_softmax(-1), second.log_softmax(-1))
        ref_logprobs = cls.rows(cls.ref_first, cls.ref_second)
        value = function(logprobs, ref_logprobs, logprobs.sum(dim=1).exp().detach())
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, (first, second))])


def test_k1_in_the_reward_has_the_gradient_of_the_kl_of_whole_completions():
    def whole(logprobs, ref_logprobs, probability):
        return (logprobs.sum(1).exp() * (logprobs - ref_logprobs).sum(1)).sum()

    def penalised(logprobs, ref_logprobs, probability):
        penalty = reward_penalty(logprobs, ref_logprobs, TwoTokens.mask, "k1", 1.0)
        ratio = importance_ratio(logprobs, logprobs, TwoTokens.mask, level="token")
        return (probability * (ratio * penalty[:, None]).sum(1)).sum()

    assert same(TwoTokens.gradient(penalised), TwoTokens.gradient(whole))


def test_ratio_k3_has_the_gradient_of_each_tokens_kl_given_its_prefix_at_token_level_only():
    def per_token(logprobs, ref_logprobs, probability):
        # the first token's KL is drawn with its own probability, the second's with its prefix's held fixed
        first, second = logprobs[::3, 0], logprobs[:, 1]
        kl_first = (first.exp() * (first - ref_logprobs[::3, 0])).sum()
        prefix = logprobs[:, 0].exp().detach()
        return kl_first + (prefix * second.exp() * (second - ref_logprobs[:, 1])).sum()

    def in_loss(level):
        def loss(logprobs, ref_logprobs, probability):
            ratio = importance_ratio(logprobs, logprobs, TwoTokens.mask, level=level)
            return (probability * KL_ESTIMATORS["ratio_k3"](logprobs, ref_logprobs, ratio).sum(1)).sum()

        return loss

    for level in ("token", "sequence"):
        right = same(TwoTokens.gradient(in_loss(level)), TwoTokens.gradient(per_token))
        assert right == (level == "token")
        assert (kl_warning("ratio_k3", "loss", off_policy=False, ratio_level=level) is None) == right
