import math

import pytest
import torch

from r1lab.metric.interval import bootstrap_interval


@pytest.mark.parametrize(("level", "error"), [(0.95, 0.011), (0.5, 0.025)])
def test_coverage(level, error):
    # 400 repetitions of 100 prompts whose scores are uniform, mean .5. A share of .95 is measured with a standard error
    # of sqrt(.95 * .05 / 400) = .011, one of .5 with .025. (Scores of 0 and 1 alone would put the mean and the ends of
    # the interval on one grid, where many meet exactly.)
    generator = torch.Generator().manual_seed(0)
    data = torch.rand(400, 100, generator=generator, dtype=torch.float64)
    intervals = [bootstrap_interval(row, level=level, resamples=400, seed=n) for n, row in enumerate(data)]
    coverage = sum(low <= 0.5 <= high for low, high in intervals) / len(intervals)
    assert abs(coverage - level) < 3 * error


def test_width_is_that_of_the_normal_approximation():
    values = [0.0, 1.0] * 200
    low, high = bootstrap_interval(values, level=0.95, resamples=4000, seed=0)
    # sqrt(.25 / 400) = .025, times 1.96
    assert (low, high) == pytest.approx((0.5 - 0.049, 0.5 + 0.049), abs=0.005)


def test_seed_decides_and_the_global_generator_is_left_alone():
    values = torch.rand(50, generator=torch.Generator().manual_seed(0))
    state = torch.random.get_rng_state()
    first = bootstrap_interval(values, resamples=100, seed=0)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert bootstrap_interval(values, resamples=100, seed=0) == first
    assert bootstrap_interval(values, resamples=100, seed=1) != first


def test_equal_values_give_a_point():
    assert bootstrap_interval([1.0, 1.0, 1.0], resamples=10, seed=0) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("values", "level", "resamples"),
    [([], 0.95, 10), ([math.nan], 0.95, 10), ([[1.0]], 0.95, 10), ([1.0], 1.0, 10), ([1.0], 0.0, 10), ([1.0], 0.95, 0)],
)
def test_refuses(values, level, resamples):
    with pytest.raises(ValueError):
        bootstrap_interval(values, level=level, resamples=resamples, seed=0)
