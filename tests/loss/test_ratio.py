import math

import pytest
import torch

from r1lab.loss.ratio import importance_ratio

MASK = torch.tensor([[True, True, False], [True, False, False]])
# ratios 2, 8 | 1/3; the masked entries must not matter
LOG_RATIO = torch.tensor([[math.log(2), math.log(8), 9.0], [-math.log(3), -7.0, 5.0]], dtype=torch.float64)
OLD = torch.full((2, 3), -1.5, dtype=torch.float64)


def test_token_level():
    ratio = importance_ratio(OLD + LOG_RATIO, OLD, MASK, level="token")
    torch.testing.assert_close(ratio, torch.tensor([[2, 8, 1], [1 / 3, 1, 1]], dtype=torch.float64))


def test_sequence_level_is_the_geometric_mean():
    # sqrt(2 * 8) = 4; 1/3 to the power 1
    ratio = importance_ratio(OLD + LOG_RATIO, OLD, MASK, level="sequence")
    torch.testing.assert_close(ratio, torch.tensor([[4.0] * 3, [1 / 3] * 3], dtype=torch.float64))


def test_sequence_gradient_is_shared_by_the_counted_tokens():
    logprobs = (OLD + LOG_RATIO).requires_grad_()
    ratio = importance_ratio(logprobs, OLD, MASK, level="sequence")
    (gradient,) = torch.autograd.grad(ratio[0, 0], logprobs)
    # d exp((a + b) / 2) / da = 4 / 2
    torch.testing.assert_close(gradient, torch.tensor([[2.0, 2.0, 0.0], [0.0] * 3], dtype=torch.float64))


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_on_policy_value_is_one_and_the_gradient_stays(level):
    logprobs = OLD.clone().requires_grad_()
    ratio = importance_ratio(logprobs, logprobs, MASK, level=level)
    torch.testing.assert_close(ratio, torch.ones_like(ratio))
    (gradient,) = torch.autograd.grad((ratio * MASK).sum(), logprobs)
    torch.testing.assert_close(gradient, MASK.double())


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_a_row_with_nothing_counted(level):
    logprobs = torch.full((1, 2), math.nan, requires_grad=True)
    ratio = importance_ratio(logprobs, torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool), level=level)
    assert (ratio == 1).all()
    (gradient,) = torch.autograd.grad(ratio.sum(), logprobs)
    assert (gradient == 0).all()


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_is_bounded_in_value_and_gradient(dtype, level):
    logprobs = torch.arange(-200.0, 200.5, 0.5)[:, None].to(dtype).requires_grad_()
    ratio = importance_ratio(
        logprobs, torch.zeros_like(logprobs), torch.ones_like(logprobs, dtype=torch.bool), level=level
    )
    (gradient,) = torch.autograd.grad(ratio.sum(), logprobs)
    limit = 10 if dtype == torch.float16 else 80
    assert ratio.isfinite().all() and torch.equal(gradient, torch.where(logprobs > limit, 0.0, ratio))


def test_unknown_level():
    with pytest.raises(ValueError, match="'word' is not one of token, sequence"):
        importance_ratio(OLD, OLD, MASK, level="word")
