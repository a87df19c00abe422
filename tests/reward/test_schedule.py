import math

import pytest

from r1lab.reward.schedule import Schedule


def test_straight_lines_flat_outside():
    weight = Schedule([[10, 0.0], [20, 1.0], [40, 0.5]])
    # halfway up at 15, a quarter of the way down at 25
    assert [weight(step) for step in (0, 10, 15, 20, 25, 40, 99)] == [0.0, 0.0, 0.5, 1.0, 0.875, 0.5, 0.5]


def test_only_in_the_last_quarter():
    weight = Schedule([[0.75, 0], [0.75, 1]], max_steps=100)
    assert [weight(step) for step in (0, 74, 75, 99)] == [0.0, 0.0, 1.0, 1.0]


def test_one_point_is_constant():
    assert Schedule([[5, 0.3]])(0) == Schedule([[5, 0.3]])(9) == 0.3


def test_one_point_zero_is_the_end():
    assert Schedule([[0.0, 0], [1.0, 1]], max_steps=100)(1) == 0.01
    assert Schedule([[0, 0], [1.0, 1]], max_steps=100)(1) == 0.01


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([], "points"),
        ([1.0, 2.0], "points"),
        ([[1, 2, 3]], "points"),
        ([[0, "a"]], "points"),
        ([[0, math.nan]], "of numbers up to 1e\\+30"),
        ([[0, True]], "points"),
        ([[5, 0.0], [3, 1.0]], "ascend"),
        ([[0, 0], [1, 1]], "ends at step 1; the end of the run is 1.0"),
        ([[0.75, 0], [1, 1]], "not both; the end of the run is 1.0, and 1 the first step"),
        ([[1.5, 0.0]], "from 0.0 to 1.0"),
    ],
)
def test_what_is_no_schedule(points, message):
    with pytest.raises(ValueError, match=message):
        Schedule(points, max_steps=100)


@pytest.mark.parametrize("max_steps", [None, -1])
def test_a_share_needs_an_end(max_steps):
    with pytest.raises(ValueError, match=r"0.5 is a share of trainer.max_steps, which is not set"):
        Schedule([[0.5, 1.0]], max_steps=max_steps)
