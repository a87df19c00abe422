"""The loss equals plain Python loops in double precision, and its gradient their finite differences, for every
combination of the options."""

import itertools
import math

import pytest
import torch

from r1lab.loss.grpo import grpo_loss

ROWS, LENGTH = 5, 3
LENGTHS = [3, 1, 0, 2, 2]
MAX_LENGTH = 5
EPSILON_LOW, EPSILON_HIGH, RATIO_CAP, BETA = 0.2, 0.28, 1.4, 0.7


def draw(scale, seed, shift):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(ROWS, LENGTH, dtype=torch.float64, generator=generator) * scale + shift).tolist()


# Row 0 is clipped from above and row 1 from below, row 3 is capped, row 4 untouched: at token level in some of its
# tokens, and at sequence level, where the ratios are 1.44, 0.5, 1.65 and 1.04.
RATIOS = [[4.5, 0.6, 1.1], [0.5, 9.0, 9.0], [9.0, 9.0, 9.0], [2.6, 1.05, 9.0], [1.2, 0.9, 9.0]]
ADVANTAGES = [1.2, -0.8, 2.0, -1.7, -1.0]
LOGPROBS = draw(0.5, 0, -2.0)
OLD = [[LOGPROBS[b][t] - math.log(RATIOS[b][t]) for t in range(LENGTH)] for b in range(ROWS)]
REF = draw(0.7, 2, -2.0)
ENTROPY = draw(0.3, 3, 1.0)


def naive_loss(logprobs, entropy, *, ratio_cap, ratio_level, kl, kl_placement, aggregate, entropy_coef):
    tokens = sum(LENGTHS)
    total = 0.0
    for b in range(ROWS):
        row = 0.0
        log_ratios = [logprobs[b][t] - OLD[b][t] for t in range(LENGTHS[b])]
        for t in range(LENGTHS[b]):
            ratio = math.exp(log_ratios[t] if ratio_level == "token" else sum(log_ratios) / LENGTHS[b])
            advantage = ADVANTAGES[b]
            if advantage >= 0:
                value = min(ratio, 1 + EPSILON_HIGH) * advantage
            else:
                kept = max(ratio, 1 - EPSILON_LOW)
                value = (kept if ratio_cap is None else min(kept, ratio_cap)) * advantage
            loss = -value
            if kl_placement == "loss":
                log_r = REF[b][t] - logprobs[b][t]
                k3 = math.exp(log_r) - 1 - log_r
                loss += BETA * {"k1": -log_r, "k2": log_r**2 / 2, "k3": k3, "ratio_k3": ratio * k3}[kl]
            row += loss
            total -= entropy_coef * entropy[b][t] / tokens
        if LENGTHS[b]:
            total += {
                "sequence_mean": row / LENGTHS[b] / ROWS,
                "token_mean": row / tokens,
                "constant_length": row / ROWS / MAX_LENGTH,
            }[aggregate]
    return total


def finite_differences(function, values, step=1e-6):
    gradient = [[0.0] * LENGTH for _ in range(ROWS)]
    for b, t in itertools.product(range(ROWS), range(LENGTH)):
        sides = []
        for sign in (1, -1):
            moved = [list(row) for row in values]
            moved[b][t] += sign * step
            sides.append(function(moved))
        gradient[b][t] = (sides[0] - sides[1]) / (2 * step)
    return torch.tensor(gradient, dtype=torch.float64)


@pytest.mark.parametrize("aggregate", ["sequence_mean", "token_mean", "constant_length"])
@pytest.mark.parametrize("kl_placement", ["loss", "reward", "none"])
@pytest.mark.parametrize("kl", ["k1", "k2", "k3", "ratio_k3"])
def test_every_combination(kl, kl_placement, aggregate):
    mask = torch.arange(LENGTH) < torch.tensor(LENGTHS)[:, None]
    old, ref, advantages = (torch.tensor(v, dtype=torch.float64) for v in (OLD, REF, ADVANTAGES))
    for ratio_level, ratio_cap, entropy_coef in itertools.product(("token", "sequence"), (None, RATIO_CAP), (0.0, 0.3)):
        options = {
            "ratio_cap": ratio_cap,
            "ratio_level": ratio_level,
            "kl": kl,
            "kl_placement": kl_placement,
            "aggregate": aggregate,
            "entropy_coef": entropy_coef,
        }
        logprobs = torch.tensor(LOGPROBS, dtype=torch.float64, requires_grad=True)
        entropy = torch.tensor(ENTROPY, dtype=torch.float64, requires_grad=True)
        out = grpo_loss(
            logprobs,
            old,
            ref,
            advantages,
            mask,
            entropy,
            sequences=ROWS,
            tokens=sum(LENGTHS),
            max_length=MAX_LENGTH,
            epsilon_low=EPSILON_LOW,
            epsilon_high=EPSILON_HIGH,
            beta=BETA,
            **options,
        )
        assert out.loss.item() == pytest.approx(naive_loss(LOGPROBS, ENTROPY, **options), rel=1e-12, abs=1e-14)
        gradients = torch.autograd.grad(out.loss, (logprobs, entropy), allow_unused=True, materialize_grads=True)
        expected = (
            finite_differences(lambda moved, o=options: naive_loss(moved, ENTROPY, **o), LOGPROBS),
            finite_differences(lambda moved, o=options: naive_loss(LOGPROBS, moved, **o), ENTROPY),
        )
        torch.testing.assert_close(gradients, expected, rtol=1e-6, atol=1e-8)
