"""Hand-worked numbers for every option.

Row 0: ratios 1.5, 0.5, advantage 1, r = reference / policy = 2, 1/2, entropies 1, 2.
Row 1: ratio 2, one token counted, advantage -2, r = 4, entropy 3.
Clip range [0.8, 1.3]: objective min(1.5, 1.3) = 1.3 (clipped), 0.5 | -2 * 2 = -4.
"""

import math

import pytest
import torch

from r1lab.loss.aggregate import AGGREGATES
from r1lab.loss.grpo import grpo_loss
from r1lab.loss.kl import KL_ESTIMATORS

LN2 = math.log(2)
MASK = torch.tensor([[True, True], [True, False]])
OLD = torch.full((2, 2), -2.0, dtype=torch.float64)
RATIO = torch.tensor([[1.5, 0.5], [2.0, 7.0]], dtype=torch.float64)
R = torch.tensor([[2.0, 0.5], [4.0, 9.0]], dtype=torch.float64)
ADVANTAGES = torch.tensor([1.0, -2.0], dtype=torch.float64)
ENTROPY = torch.tensor([[1.0, 2.0], [3.0, 8.0]], dtype=torch.float64)
BASE = {
    "sequences": 2,
    "tokens": 3,
    "max_length": 4,
    "epsilon_low": 0.2,
    "epsilon_high": 0.3,
    "ratio_cap": None,
    "ratio_level": "token",
    "beta": 0.0,
    "kl": "k3",
    "kl_placement": "none",
    "aggregate": "sequence_mean",
    "entropy_coef": 0.0,
}


def run(**changes):
    logprobs = (OLD + RATIO.log()).requires_grad_()
    ref = logprobs.detach() + R.log()
    out = grpo_loss(logprobs, OLD, ref, ADVANTAGES, MASK, ENTROPY, **(BASE | changes))
    (gradient,) = torch.autograd.grad(out.loss, logprobs)
    return out, gradient


def check(changes, loss, gradient):
    out, actual = run(**changes)
    assert out.loss.item() == pytest.approx(loss, rel=1e-12)
    torch.testing.assert_close(actual, torch.tensor(gradient, dtype=torch.float64))


# Weight of a token: sequence_mean 1/2 * 1/2, 1/4 | 1/2; token_mean 1/3; constant_length 1/8.
# Unclipped gradient: -weight * ratio * advantage.
def test_sequence_mean():
    # ((1.3 + .5) / 2 - 4) / 2 = -1.55;  -.5/4 = -.125;  4/2 = 2
    check({}, 1.55, [[0, -0.125], [2, 0]])


def test_token_mean():
    check({"aggregate": "token_mean"}, 2.2 / 3, [[0, -0.5 / 3], [4 / 3, 0]])


def test_constant_length():
    check({"aggregate": "constant_length"}, 2.2 / 8, [[0, -0.5 / 8], [0.5, 0]])


def test_size_of_the_minibatch_divides():
    check({"sequences": 20}, 0.155, [[0, -0.0125], [0.2, 0]])
    check({"aggregate": "token_mean", "tokens": 30}, 0.22 / 3, [[0, -0.05 / 3], [0.4 / 3, 0]])
    check({"aggregate": "constant_length", "max_length": 40}, 0.0275, [[0, -0.5 / 80], [0.05, 0]])


def test_epsilon_high():
    # 1.5 is inside [., 1.6]: ((1.5 + .5) / 2 - 4) / 2 = -1.5;  -1.5/4
    check({"epsilon_high": 0.6}, 1.5, [[-0.375, -0.125], [2, 0]])


def test_epsilon_low():
    # Binds for negative advantages: with A = -1 in row 0 the objective is -1.5 and max(.5, .8) = .8.
    logprobs = (OLD + RATIO.log()).requires_grad_()
    for epsilon_low, bound, slope in ((0.2, 0.8, 0.0), (0.6, 0.5, 0.125)):
        out = grpo_loss(logprobs, OLD, None, -ADVANTAGES, MASK, None, **(BASE | {"epsilon_low": epsilon_low}))
        # row 1: A = 2, ratio 2 -> 1.3 * 2 clipped;  -((-1.5 - bound) / 2 + 2.6) / 2
        assert out.loss.item() == pytest.approx(((1.5 + bound) / 2 - 2.6) / 2, rel=1e-12)
        (gradient,) = torch.autograd.grad(out.loss, logprobs)
        torch.testing.assert_close(gradient, torch.tensor([[0.375, slope], [0, 0]], dtype=torch.float64))


def test_ratio_cap():
    # row 1: 1.7 * -2 = -3.4, no gradient:  (.9 - 3.4) / 2 = -1.25
    check({"ratio_cap": 1.7}, 1.25, [[0, -0.125], [0, 0]])


def test_sequence_ratio():
    # row 0: s = sqrt(1.5 * .5) = sqrt(.75), within the range, gradient -s/2 /2 shared by two tokens; row 1 as before
    s = math.sqrt(0.75)
    check({"ratio_level": "sequence"}, (4 - s) / 2, [[-s / 4, -s / 4], [2, 0]])


def test_sequence_ratio_clipped():
    # row 0: s = sqrt(1.8 * .8) = 1.2, above 1.1: both tokens are clipped, the one with ratio .8 too
    ratio = torch.tensor([[1.8, 0.8], [1.0, 1.0]], dtype=torch.float64)
    logprobs = (OLD + ratio.log()).requires_grad_()
    out = grpo_loss(
        logprobs, OLD, None, ADVANTAGES, MASK, None, **(BASE | {"ratio_level": "sequence", "epsilon_high": 0.1})
    )
    # row 0: 1.1; row 1: on policy, -2:  -(1.1 - 2) / 2; gradient of row 1: 2 / 2
    assert out.loss.item() == pytest.approx(0.45, rel=1e-12)
    (gradient,) = torch.autograd.grad(out.loss, logprobs)
    torch.testing.assert_close(gradient, torch.tensor([[0, 0], [1, 0]], dtype=torch.float64))
    assert out.metrics["clip_fraction_high"].item() == pytest.approx(2 / 3)


# estimates at r = 2, 1/2 | 4 and their derivatives by the logprob (see test_kl.py)
ESTIMATES = {
    "k1": ([-LN2, LN2, -2 * LN2], [1, 1, 1]),
    "k2": ([LN2**2 / 2, LN2**2 / 2, 2 * LN2**2], [-LN2, LN2, -2 * LN2]),
    "k3": ([1 - LN2, LN2 - 0.5, 3 - 2 * LN2], [-1, 0.5, -3]),
    "ratio_k3": (
        [1.5 * (1 - LN2), 0.5 * (LN2 - 0.5), 2 * (3 - 2 * LN2)],
        [-1.5 * LN2, 0.5 * LN2, -4 * LN2],
    ),
}
WEIGHTS = {"sequence_mean": [1 / 4, 1 / 4, 1 / 2], "token_mean": [1 / 3] * 3, "constant_length": [1 / 8] * 3}
POLICY = {
    "sequence_mean": (1.55, [0, -0.125, 2]),
    "token_mean": (2.2 / 3, [0, -0.5 / 3, 4 / 3]),
    "constant_length": (2.2 / 8, [0, -0.5 / 8, 0.5]),
}


@pytest.mark.parametrize("aggregate", WEIGHTS)
@pytest.mark.parametrize("kl", ESTIMATES)
def test_kl_in_the_loss(kl, aggregate):
    values, slopes = ESTIMATES[kl]
    loss, gradient = POLICY[aggregate]
    penalty = 0.1 * sum(w * v for w, v in zip(WEIGHTS[aggregate], values, strict=True))
    flat = [g + 0.1 * w * s for g, w, s in zip(gradient, WEIGHTS[aggregate], slopes, strict=True)]
    changes = {"beta": 0.1, "kl": kl, "kl_placement": "loss", "aggregate": aggregate}
    check(changes, loss + penalty, [flat[:2], [flat[2], 0]])
    metrics = run(**changes)[0].metrics
    assert metrics["policy_loss"].item() == pytest.approx(loss, rel=1e-12)
    assert metrics["kl_loss"].item() == pytest.approx(penalty, rel=1e-12)


def test_ratio_k3_takes_the_ratio_of_its_level_uncapped():
    # s0 = sqrt(.75) on both tokens of row 0, s1 = 2 although the policy term stops at the cap of 1.7
    s = math.sqrt(0.75)
    k3 = ESTIMATES["k3"][0]
    penalty = 0.1 * (s * (k3[0] + k3[1]) / 4 + 2 * k3[2] / 2)
    changes = {"beta": 0.1, "kl": "ratio_k3", "kl_placement": "loss", "ratio_level": "sequence", "ratio_cap": 1.7}
    assert run(**changes)[0].loss.item() == pytest.approx((3.4 - s) / 2 + penalty, rel=1e-12)


@pytest.mark.parametrize("placement", ["reward", "none"])
@pytest.mark.parametrize("kl", ESTIMATES)
def test_kl_elsewhere_leaves_the_loss_alone(kl, placement):
    check({"beta": 0.1, "kl": kl, "kl_placement": placement}, 1.55, [[0, -0.125], [2, 0]])


@pytest.mark.parametrize(("aggregate", "loss"), [(name, POLICY[name][0]) for name in POLICY])
def test_entropy_bonus_is_a_token_mean(aggregate, loss):
    # (1 + 2 + 3) / 3 = 2
    out, _ = run(entropy_coef=0.01, aggregate=aggregate)
    assert out.loss.item() == pytest.approx(loss - 0.02, rel=1e-12)
    assert out.metrics["entropy_loss"].item() == pytest.approx(-0.02, rel=1e-12)


def test_entropy_gradient():
    entropy = ENTROPY.clone().requires_grad_()
    out = grpo_loss(OLD, OLD, None, ADVANTAGES, MASK, entropy, **(BASE | {"entropy_coef": 0.3}))
    (gradient,) = torch.autograd.grad(out.loss, entropy)
    torch.testing.assert_close(gradient, torch.tensor([[-0.1, -0.1], [-0.1, 0]], dtype=torch.float64))


def test_metrics():
    metrics = {name: value.item() for name, value in run()[0].metrics.items()}
    assert metrics == pytest.approx(
        {
            "policy_loss": 1.55,
            "ratio_mean": 4 / 3,
            "clip_fraction_low": 0.0,
            "clip_fraction_high": 1 / 3,
            "clip_fraction": 1 / 3,
            "kl": (1 - LN2 + LN2 - 0.5 + 3 - 2 * LN2) / 3,
            "kl_clamp_fraction": 0.0,
            "entropy": 2.0,
        }
    )
    assert not any(value.requires_grad for value in run()[0].metrics.values())


def test_metrics_without_reference_and_entropy():
    metrics = grpo_loss(OLD, OLD, None, ADVANTAGES, MASK, None, **BASE).metrics
    assert not {"kl", "kl_clamp_fraction", "entropy"} & set(metrics)


def test_on_policy_gradient_is_the_advantage_times_that_of_the_logprob():
    logprobs = OLD.clone().requires_grad_()
    out = grpo_loss(logprobs, logprobs, None, ADVANTAGES, MASK, None, **(BASE | {"aggregate": "token_mean"}))
    (gradient,) = torch.autograd.grad(out.loss, logprobs)
    torch.testing.assert_close(gradient, torch.tensor([[-1 / 3, -1 / 3], [2 / 3, 0]], dtype=torch.float64))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kl": "k4"}, "kl 'k4' is not one of"),
        ({"kl_placement": "advantage"}, "kl_placement 'advantage' is not one of"),
        ({"aggregate": "mean"}, "aggregate 'mean' is not one of"),
        ({"ratio_level": "word"}, "ratio level 'word' is not one of"),
        ({"beta": 0.1, "kl_placement": "loss"}, "needs ref_logprobs"),
        ({"entropy_coef": 0.1}, "needs the entropy"),
    ],
)
def test_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        grpo_loss(OLD, OLD, None, ADVANTAGES, MASK, None, **(BASE | changes))


def test_shapes_that_would_broadcast_are_refused():
    for position, values in (
        (1, OLD[:1]),
        (2, OLD[:, :1]),
        (3, ADVANTAGES[:, None]),
        (3, ADVANTAGES[:1]),
        (4, MASK[:, :1]),
        (4, MASK.double()),
        (5, OLD[0]),
    ):
        arguments = [OLD, OLD, OLD, ADVANTAGES, MASK, ENTROPY]
        arguments[position] = values
        with pytest.raises(ValueError, match="must be"):
            grpo_loss(*arguments, **BASE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kl", KL_ESTIMATORS)
@pytest.mark.parametrize("far", [-200.0, 80.0, 200.0])
def test_a_long_completion_far_from_its_reference_has_a_finite_loss(dtype, kl, far):
    logprobs = torch.full((1, 8000), -1.0, dtype=dtype).requires_grad_()
    old, mask = logprobs.detach(), torch.ones(1, 8000, dtype=torch.bool)
    options = BASE | {"beta": 0.5, "kl": kl, "kl_placement": "loss", "sequences": 1, "tokens": 8000, "max_length": 8000}
    for aggregate in AGGREGATES:
        out = grpo_loss(
            logprobs, old, old + far, torch.ones(1, dtype=dtype), mask, None, **options | {"aggregate": aggregate}
        )
        (gradient,) = torch.autograd.grad(out.loss, logprobs)
        assert out.loss.isfinite() and gradient.isfinite().all()
        assert all(value.isfinite() for value in out.metrics.values())
        each = KL_ESTIMATORS[kl](old.double(), old.double() + far, torch.ones(1, 8000, dtype=torch.float64))
        if dtype != torch.float16:  # which is clamped sooner
            assert out.metrics["kl_loss"].item() == pytest.approx(0.5 * each[0, 0].item(), rel=0.02)
