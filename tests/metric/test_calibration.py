import math

import pytest

from r1lab.metric.calibration import expected_calibration_error


def test_by_hand():
    # Bin [.2, .3): 2 cases at .2 and .25, half right; bin [.9, 1]: 2 cases at .95 and 1, both right.
    confidence, correct = [0.2, 0.25, 0.95, 1.0], [True, False, True, True]
    assert expected_calibration_error(confidence, correct) == pytest.approx((abs(1 - 0.45) + abs(2 - 1.95)) / 4)


def test_in_one_bin_only_the_means_count():
    assert expected_calibration_error([0.1, 0.9], [True, False], bins=1) == pytest.approx(0.0)
    assert expected_calibration_error([0.6, 0.6], [True, False]) == pytest.approx(0.1)


def test_of_none():
    assert math.isnan(expected_calibration_error([], []))
