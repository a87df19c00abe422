import math

import pytest
import torch

from r1lab.loss.aggregate import AGGREGATES, constant_length, sequence_mean, token_mean

VALUES = torch.tensor([[1.0, 3.0, math.nan], [8.0, math.inf, -math.inf], [math.nan] * 3])
MASK = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])


# rows: mean 2, sum 4 | mean 8, sum 8 | nothing counted
def test_sequence_mean():
    share = sequence_mean(VALUES, MASK, sequences=4, tokens=99, max_length=99)
    assert share.item() == (2 + 8 + 0) / 4


def test_token_mean():
    assert token_mean(VALUES, MASK, sequences=99, tokens=6, max_length=99).item() == (4 + 8) / 6


def test_constant_length():
    assert constant_length(VALUES, MASK, sequences=4, tokens=99, max_length=5).item() == pytest.approx(12 / 20)


@pytest.mark.parametrize("name", AGGREGATES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_mean_of_finite_values_is_finite(name, dtype):
    largest = torch.finfo(dtype).max / 2
    values = torch.full((2, 8000), largest, dtype=dtype).requires_grad_()
    share = AGGREGATES[name](values, torch.ones(2, 8000, dtype=torch.bool), sequences=2, tokens=16000, max_length=8000)
    (gradient,) = torch.autograd.grad(share, values)
    assert share.dtype == torch.float32 and share.item() == pytest.approx(largest, rel=1e-5)
    torch.testing.assert_close(gradient, torch.full_like(values, 1 / 16000))


def test_sums_are_those_of_plain_arithmetic_to_the_bit():
    generator = torch.Generator().manual_seed(0)
    values, mask = torch.randn(7, 333, generator=generator), torch.rand(7, 333, generator=generator) < 0.7
    size = {"sequences": 21, "tokens": 4321, "max_length": 333}
    kept = torch.where(mask, values, 0.0)
    assert torch.equal(token_mean(values, mask, **size), kept.sum() / 4321)
    assert torch.equal(sequence_mean(values, mask, **size), (kept.sum(1) / mask.sum(1)).sum() / 21)
    assert torch.equal(constant_length(values, mask, **size), kept.sum() / (21 * 333))


@pytest.mark.parametrize("name", AGGREGATES)
def test_nothing_counted_is_zero(name):
    share = AGGREGATES[name](VALUES[2:], MASK[2:], sequences=1, tokens=0, max_length=3)
    assert share.item() == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sequence_mean", [[1 / 8, 1 / 8, 0], [1 / 4, 0, 0], [0, 0, 0]]),
        ("token_mean", [[1 / 6, 1 / 6, 0], [1 / 6, 0, 0], [0, 0, 0]]),
        ("constant_length", [[1 / 20, 1 / 20, 0], [1 / 20, 0, 0], [0, 0, 0]]),
    ],
)
def test_gradient_is_the_weight_of_a_token(name, expected):
    values = VALUES.clone().requires_grad_()
    share = AGGREGATES[name](values, MASK, sequences=4, tokens=6, max_length=5)
    (gradient,) = torch.autograd.grad(share, values)
    torch.testing.assert_close(gradient, torch.tensor(expected))
