"""Whatever stands under a masked token, NaN and infinity included, changes neither a value nor a gradient."""

import itertools
import math

import pytest
import torch

from r1lab.loss.grpo import grpo_loss
from r1lab.loss.ppo import ppo_loss
from r1lab.loss.sft import sft_loss

MASK = torch.tensor([[True, True, True, False], [True, False, False, False], [False] * 4, [True, False, True, True]])
ADVANTAGES = torch.tensor([1.0, -1.5, 0.7, -0.3])
CHOICE = {"kl": "ratio_k3", "kl_placement": "loss", "ratio_level": "token", "aggregate": "token_mean"}


def inputs(fill):
    """logprobs, old_logprobs, ref_logprobs, entropy [4, 4] with `fill` under the mask."""
    generator = torch.Generator().manual_seed(0)
    draws = (-scale * torch.rand(4, 4, generator=generator) for scale in (1.0, 0.5, 1.0, 1.0))
    return [torch.where(MASK, values, fill).requires_grad_() for values in draws]


def run(tensors, advantages=ADVANTAGES, **options):
    """Loss, metrics, and the gradients of the four inputs."""
    logprobs, old_logprobs, ref_logprobs, entropy = tensors
    out = grpo_loss(
        logprobs,
        old_logprobs,
        ref_logprobs,
        advantages,
        MASK,
        entropy,
        sequences=4,
        tokens=int(MASK.sum()),
        max_length=4,
        epsilon_low=0.2,
        epsilon_high=0.2,
        ratio_cap=3.0,
        beta=0.1,
        entropy_coef=0.1,
        **options,
    )
    return *out, torch.autograd.grad(out.loss, tensors, allow_unused=True, materialize_grads=True)


def assert_identical(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("kl", "kl_placement", "ratio_level", "aggregate"),
    list(
        itertools.product(
            ["k1", "k2", "k3", "ratio_k3"],
            ["loss", "none"],
            ["token", "sequence"],
            ["sequence_mean", "token_mean", "constant_length"],
        )
    ),
)
def test_grpo(kl, kl_placement, ratio_level, aggregate):
    options = {"kl": kl, "kl_placement": kl_placement, "ratio_level": ratio_level, "aggregate": aggregate}
    tidy = inputs(-0.5)
    expected = run(tidy, **options)
    assert expected[0].isfinite() and expected[2][0].abs().max() > 0
    for fill in (math.nan, math.inf, -math.inf, 1e30, 7.0):
        assert_identical(run(inputs(fill), **options), expected)
    for position, dirty in enumerate(inputs(math.nan)):
        assert_identical(run([*tidy[:position], dirty, *tidy[position + 1 :]], **options), expected)


def test_gradient_is_zero_under_the_mask_and_stops_at_old_and_reference():
    logprobs, old_logprobs, ref_logprobs, entropy = run(inputs(math.nan), **CHOICE)[2]
    assert (logprobs[~MASK] == 0).all() and (entropy[~MASK] == 0).all()
    assert (old_logprobs == 0).all() and (ref_logprobs == 0).all()


@pytest.mark.parametrize("position", range(4))
def test_nan_at_a_counted_token_does_show(position):
    tensors = inputs(-0.5)
    with torch.no_grad():
        tensors[position][0, 0] = math.nan
    assert run(tensors, **CHOICE)[0].isnan()


@pytest.mark.parametrize("ratio_level", ["token", "sequence"])
def test_nan_advantage_of_a_row_with_nothing_counted(ratio_level):
    options = CHOICE | {"ratio_level": ratio_level}
    broken = torch.where(MASK.any(dim=1), ADVANTAGES, math.nan)
    assert broken.isnan().sum() == 1
    assert_identical(run(inputs(-0.5), broken, **options), run(inputs(-0.5), **options))


@pytest.mark.parametrize("value_clip", [0.1, None])
def test_ppo(value_clip):
    def result(fill):
        advantages, values, old_values, returns = inputs(fill)
        policy = inputs(-0.5)[:3]
        out = ppo_loss(
            *policy,
            advantages,
            MASK,
            inputs(-0.5)[3],
            values,
            old_values,
            returns,
            sequences=4,
            tokens=int(MASK.sum()),
            max_length=4,
            value_clip=value_clip,
            value_coef=0.5,
            epsilon_low=0.2,
            epsilon_high=0.2,
            ratio_cap=3.0,
            beta=0.1,
            entropy_coef=0.1,
            **CHOICE,
        )
        return *out, torch.autograd.grad(out.loss, (policy[0], values))

    expected = result(-0.5)
    assert expected[0].isfinite() and all(gradient.abs().max() > 0 for gradient in expected[2])
    assert (expected[2][1][~MASK] == 0).all()
    for fill in (math.nan, math.inf, -math.inf, 1e30):
        assert_identical(result(fill), expected)


def test_sft():
    for fill in (math.nan, math.inf, -math.inf):
        results = []
        for value in (fill, -0.5):
            logprobs = inputs(value)[0]
            loss = sft_loss(logprobs, MASK, tokens=int(MASK.sum()))
            results.append((loss, *torch.autograd.grad(loss, logprobs)))
        assert_identical(*results)
