import numpy as np
import pytest

from r1lab.metric.spread import spread


def test_hand_worked():
    # Means 2 and 6: MS between 2 * (4 + 4) / 1 = 16, within (2 + 2) / 2 = 2; between^2 = (16 - 2) / 2 = 7.
    result = spread([[1, 3], [5, 7]])
    assert (result.between**2, result.within**2) == pytest.approx((7, 2))


def test_what_chance_explains_is_taken_off():
    # Equal means: (0 - 2) / 2 is below zero, so 0.
    assert spread([[1, 3], [3, 1]]).between == 0
    assert spread([[1, 1], [1, 1]]).within == 0


def test_groups_of_unequal_size():
    # Means 2, 5; sizes 3, 1, mean of all 11/4. MS between 3 * .5625 + 5.0625 = 6.75, within 2 / 2 = 1,
    # size (4 - 10/4) / 1 = 1.5: between^2 = 5.75 / 1.5.
    result = spread([[1, 2, 3], [5]])
    assert (result.between**2, result.within**2) == pytest.approx((5.75 / 1.5, 1))


def test_finds_what_was_put_in():
    # 400 bases, sd 2 between them and 1 within: standard errors of about .08 and .025.
    rng = np.random.default_rng(0)
    result = spread(rng.normal(0, 2, (400, 1)) + rng.normal(0, 1, (400, 3)))
    assert abs(result.between - 2) < 0.24 and abs(result.within - 1) < 0.08


@pytest.mark.parametrize("groups", [[], [[1, 2]], [[1], [2]], [[1, 2], []]])
def test_refuses(groups):
    with pytest.raises(ValueError, match="two groups"):
        spread(groups)
