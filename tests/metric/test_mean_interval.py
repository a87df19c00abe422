import math

import numpy as np
import pytest

from r1lab.metric.mean_interval import mean_interval


def test_hand_worked():
    # mean 0.5, sd 0.1, standard error 0.1 / sqrt(3) = .057735, t(2, .975) = 4.302653
    interval = mean_interval([[0.4, 0.5, 0.6]])
    assert (interval.mean, interval.sd, interval.n, interval.note) == (0.5, pytest.approx(0.1), 3, "")
    assert (interval.low, interval.high) == pytest.approx((0.5 - 0.248414, 0.5 + 0.248414), abs=1e-6)


def test_groups_are_taken_as_given():
    # Two bases a whole unit apart: SS .02 each, pooled variance .04 / 4 = .01, standard error .1 / 2 * sqrt(2 / 3)
    # = .040825, t(4, .975) = 2.776445. Their distance is not in it.
    interval = mean_interval([[0.4, 0.5, 0.6], [1.4, 1.5, 1.6]])
    assert interval.mean == pytest.approx(1.0)
    assert interval.high - interval.mean == pytest.approx(0.113348, abs=1e-6)


def test_each_group_counts_once():
    assert mean_interval([[0.0, 0.2, 0.1], [1.1]]).mean == pytest.approx(0.6)


def test_coverage():
    # 2000 times three values a base on two bases: the share that hold the mean, with standard error .005.
    draws = np.random.default_rng(0).normal(size=(2000, 2, 3)) + np.array([[0.0], [5.0]])
    intervals = [mean_interval(groups) for groups in draws]
    assert abs(np.mean([i.low <= 2.5 <= i.high for i in intervals]) - 0.95) < 0.015


@pytest.mark.parametrize(
    ("groups", "mean", "sd", "note"),
    [
        ([], None, None, "no value"),
        ([[]], None, None, "no value"),
        ([[0.5]], 0.5, None, "one value"),
        ([[0.5], [0.7]], 0.6, None, "one value in each group"),
        ([[0.5, 0.5]], 0.5, 0.0, "all 2 values are equal"),
        # Rounding is no spread: .8 - .6 and .7 - .5 differ in the last bit.
        ([[0.8 - 0.6, 0.7 - 0.5]], 0.2, 0.0, "all 2 values are equal"),
        ([[0.5, 0.5], [0.1, 0.1]], 0.3, 0.0, "no spread in a group"),
    ],
)
def test_undefined_says_why(groups, mean, sd, note):
    interval = mean_interval(groups)
    assert (interval.mean, interval.sd, interval.note) == (mean and pytest.approx(mean), sd, note)
    assert interval.low is None and interval.high is None


@pytest.mark.parametrize(("values", "level"), [([math.nan, 1.0], 0.95), ([math.inf], 0.95), ([1.0, 2.0], 1.0)])
def test_refuses(values, level):
    with pytest.raises(ValueError):
        mean_interval([values], level=level)
