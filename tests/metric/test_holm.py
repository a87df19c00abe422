import numpy as np
import pytest

from r1lab.metric.holm import holm


def test_hand_worked():
    # Sorted: .01 * 4, .02 * 3, .03 * 2 = .06 (not below .06), .5 * 1; in the order given.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.6, 0.4]) == pytest.approx([0.8, 0.8])
    assert holm([0.9, 0.9]) == [1.0, 1.0]
    assert holm([]) == [] and holm([0.2]) == [0.2]


def test_one_false_alarm_in_twenty_families():
    # 4000 families of five true null hypotheses: at most 5 % have a false alarm, here 1 - .99^5 = 4.9 %; s.e. .35 %.
    p = np.random.default_rng(0).uniform(size=(4000, 5))
    assert abs(np.mean([min(holm(row)) <= 0.05 for row in p]) - 0.049) < 0.0105


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_refuses(p):
    with pytest.raises(ValueError):
        holm([p])
