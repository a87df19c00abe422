import math

import pytest
import torch

from r1lab.advantage.group import group_advantages
from r1lab.loss.kl import (
    KL_ESTIMATORS,
    is_clamped,
    k1,
    k2,
    k3,
    kl_warning,
    next_beta,
    ratio_k3,
    reward_penalty,
    token_penalty,
)
from r1lab.loss.ratio import largest_ratio

LN2 = math.log(2)
# r = reference / policy = 2, 1/2, 1
LOGPROBS = torch.tensor([[-3.0, -1.0, -2.0]], dtype=torch.float64)
REF = LOGPROBS + torch.tensor([[LN2, -LN2, 0.0]], dtype=torch.float64)


def close(values, expected):
    torch.testing.assert_close(values, torch.tensor([expected], dtype=torch.float64))


def test_values():
    close(k1(LOGPROBS, REF), [-LN2, LN2, 0])
    close(k2(LOGPROBS, REF), [LN2**2 / 2, LN2**2 / 2, 0])
    close(k3(LOGPROBS, REF), [2 - 1 - LN2, 0.5 - 1 + LN2, 0])
    close(ratio_k3(LOGPROBS, REF, torch.tensor([[3.0, 2.0, 5.0]])), [3 * (1 - LN2), 2 * (LN2 - 0.5), 0])


# d/dlogprob with log r = ref - logprob: k1 1; k2 -log r; k3 1 - r; ratio k3 ratio (k3 + 1 - r) = -ratio log r
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("k1", [1, 1, 1]),
        ("k2", [-LN2, LN2, 0]),
        ("k3", [-1, 0.5, 0]),
        ("ratio_k3", [-3 * LN2, 2 * LN2, 0]),
    ],
)
def test_gradients(name, expected):
    logprobs = LOGPROBS.clone().requires_grad_()
    old = LOGPROBS - torch.tensor([[3.0, 2.0, 5.0]], dtype=torch.float64).log()
    estimate = KL_ESTIMATORS[name](logprobs, REF, (logprobs - old).exp())
    (gradient,) = torch.autograd.grad(estimate.sum(), logprobs)
    close(gradient, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_k3_is_not_negative_down_to_the_last_bit(dtype):
    size = torch.logspace(-12, 1.5, 20001, dtype=dtype)
    log_r = torch.cat([size, -size])
    assert (k3(-log_r, torch.zeros_like(log_r)) >= 0).all()


def test_k3_keeps_its_digits_where_policies_are_close():
    # log_r^2 / 2 to first order; exp(log_r) - log_r - 1 would give 0 in float32
    log_r = torch.tensor([1e-3, -1e-3])
    torch.testing.assert_close(k3(-log_r, torch.zeros(2)), log_r**2 / 2 * (1 + log_r / 3), rtol=2e-4, atol=0)


FAR = torch.arange(-200.0, 200.5, 0.5)  # log r
DTYPES = {torch.float64: 80, torch.float32: 80, torch.bfloat16: 80, torch.float16: 10}


@pytest.mark.parametrize("dtype, limit", DTYPES.items())
def test_k3_is_bounded_in_value_and_gradient(dtype, limit):
    ref = FAR.to(dtype)
    logprobs = torch.zeros_like(ref).requires_grad_()
    value = k3(logprobs, ref)
    (gradient,) = torch.autograd.grad(value.sum(), logprobs)
    assert value.isfinite().all() and gradient.isfinite().all()
    below = FAR <= limit
    assert torch.equal(value[below], (torch.expm1(ref) - ref)[below])  # to the bit
    torch.testing.assert_close(gradient[below], (1 - ref.double().exp()).to(dtype)[below], rtol=1e-2, atol=1e-2)
    assert (value[~below] == value[FAR == limit]).all() and (gradient[~below] == 0).all()
    assert torch.equal(is_clamped(logprobs, ref), ~below)


@pytest.mark.parametrize("dtype, limit", DTYPES.items())
def test_ratio_k3_is_bounded_in_value_and_gradients(dtype, limit):
    log_ratio, log_r = (x.to(dtype) for x in torch.meshgrid(FAR.clamp(max=limit)[::3], FAR, indexing="ij"))
    logprobs = torch.zeros_like(log_r).requires_grad_()
    ratio = log_ratio.exp().requires_grad_()
    value = ratio_k3(logprobs, log_r, ratio)
    gradients = torch.autograd.grad(value.sum(), (logprobs, ratio))
    # The ratio's own derivative, by a logprob of its own, is the ratio.
    assert all(x.isfinite().all() for x in (value, *gradients, gradients[1] * ratio))
    plain = ratio * k3(logprobs, log_r)
    clamped = is_clamped(logprobs, log_r, ratio)
    assert torch.equal(clamped, (log_r > limit) | (plain > largest_ratio(dtype)))
    assert torch.equal(value[~clamped], plain[~clamped])
    assert (value <= torch.tensor(largest_ratio(dtype), dtype=dtype)).all()
    beyond = plain > largest_ratio(dtype)
    assert beyond.any() and (gradients[0][beyond | (log_r > limit)] == 0).all() and (gradients[1][beyond] == 0).all()
    # On policy the ratio is 1, and nothing but log r is clamped.
    assert torch.equal(ratio_k3(logprobs, log_r, torch.ones_like(ratio)), k3(logprobs, log_r))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", KL_ESTIMATORS)
@pytest.mark.parametrize("far", [-200.0, 80.0, 200.0])
def test_penalties_of_long_completions_are_finite(name, dtype, far):
    logprobs, mask = torch.zeros(2, 8000, dtype=dtype), torch.ones(2, 8000, dtype=torch.bool)
    arguments = (logprobs, torch.full_like(logprobs, far), mask, name, 0.5)
    exact = token_penalty(*(x.double() for x in arguments[:2]), *arguments[2:])
    for penalty, expected in ((token_penalty, exact), (reward_penalty, exact.sum(1))):
        values = penalty(*arguments)
        assert values.dtype == torch.float32
        torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=0)
    rewards = torch.stack([-reward_penalty(*arguments), torch.zeros(2)], dim=1)
    advantages = group_advantages(rewards, scale="std", ddof=0, eps=1e-4)
    torch.testing.assert_close(advantages.abs(), torch.ones(2, 2), rtol=1e-4, atol=0)


def test_an_infinite_penalty_stays_infinite():
    # Such a step is skipped: what makes it infinite is a fault of a model, not a distance.
    ref = torch.tensor([[-math.inf, 0.0]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    for name in ("k1", "k2", "k3"):
        assert reward_penalty(torch.zeros(1, 2), ref, mask, name, 1.0).isinf().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_k2_is_finite_in_value_and_gradient(dtype):
    log_r = torch.tensor([-6e4, -362.0, -200.0, 1.5, 300.0, 6e4], dtype=dtype)
    logprobs = torch.zeros_like(log_r).requires_grad_()
    value = k2(logprobs, log_r)
    (gradient,) = torch.autograd.grad(value.sum(), logprobs)
    torch.testing.assert_close(value.double(), log_r.double().square() / 2)
    assert torch.equal(gradient, -log_r)


@pytest.mark.parametrize("name", KL_ESTIMATORS)
def test_zero_where_the_policies_agree(name):
    assert (KL_ESTIMATORS[name](LOGPROBS, LOGPROBS, torch.full_like(LOGPROBS, 1.7)) == 0).all()


def test_reward_penalty_sums_a_completion_and_is_detached():
    # k1 with beta .5: .5 * (-ln 2 + ln 2), and with the first token masked .5 * ln 2
    logprobs = LOGPROBS.expand(2, 3).clone().requires_grad_()
    mask = torch.tensor([[True, True, True], [False, True, True]])
    penalty = reward_penalty(logprobs, REF.expand(2, 3), mask, "k1", 0.5)
    torch.testing.assert_close(penalty, torch.tensor([0.0, 0.5 * LN2], dtype=torch.float64))
    assert not penalty.requires_grad
    expected = 0.5 * torch.tensor([0.5, LN2 - 0.5], dtype=torch.float64)
    for name in ("k3", "ratio_k3"):
        torch.testing.assert_close(reward_penalty(logprobs, REF.expand(2, 3), mask, name, 0.5), expected)


def test_token_penalty_is_that_of_each_token():
    mask = torch.tensor([[True, False, True]])
    close(token_penalty(LOGPROBS, REF, mask, "k1", 0.5), [-0.5 * LN2, 0, 0])
    close(token_penalty(LOGPROBS, REF, mask, "k3", 0.5), [0.5 * (1 - LN2), 0, 0])
    assert not token_penalty(LOGPROBS.clone().requires_grad_(), REF, mask, "k1", 0.5).requires_grad
    with pytest.raises(ValueError, match="kl 'k4' is not one of"):
        token_penalty(LOGPROBS, REF, mask, "k4", 0.5)


def test_reward_penalty_ignores_nan_under_the_mask():
    broken = torch.tensor([[math.nan, -1.0, -2.0]], dtype=torch.float64)
    mask = torch.tensor([[False, True, True]])
    for name in KL_ESTIMATORS:
        assert reward_penalty(broken, REF, mask, name, 1.0).isfinite().all()
        assert reward_penalty(LOGPROBS, broken, mask, name, 1.0).isfinite().all()


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (6.0, 0.2),  # on target
        (6.6, 0.2 * (1 + 0.1 / 10)),  # 10 % above, horizon 10
        (60.0, 0.2 * (1 + 0.2 / 10)),  # clipped at 20 %
        (0.0, 0.2 * (1 - 0.2 / 10)),
        (5.7, 0.2 * (1 - 0.05 / 10)),
    ],
)
def test_next_beta(kl, expected):
    assert next_beta(0.2, kl, target=6.0, horizon=10) == pytest.approx(expected, rel=1e-12)


def test_next_beta_refuses_what_it_cannot_divide_by():
    for target, horizon in ((0.0, 10), (1.0, 0)):
        with pytest.raises(ValueError, match="above 0"):
            next_beta(0.1, 1.0, target=target, horizon=horizon)


# That each of these is true is checked by enumeration in tests/invariant/test_kl_gradient.py.
def test_warnings_say_why():
    assert "zero" in kl_warning("k1", "loss")
    assert "forward KL" in kl_warning("k3", "loss", off_policy=False)
    assert "on policy only" in kl_warning("k2", "loss")
    assert kl_warning("k2", "loss", off_policy=False) is None
    assert "minus" in kl_warning("k3", "reward")
    assert kl_warning("k1", "reward") is None
    assert kl_warning("ratio_k3", "loss") is None
    assert "sequence" in kl_warning("ratio_k3", "loss", ratio_level="sequence")
    assert [kl_warning(name, "none") for name in KL_ESTIMATORS] == [None] * 4


def test_unknown_names():
    with pytest.raises(ValueError, match="'k4' is not one of k1, k2, k3, ratio_k3"):
        kl_warning("k4", "loss")
    with pytest.raises(ValueError, match="'advantage' is not one of loss, reward, none"):
        kl_warning("k1", "advantage")
    with pytest.raises(ValueError, match="'k4'"):
        reward_penalty(LOGPROBS, REF, torch.ones_like(REF, dtype=torch.bool), "k4", 1.0)
