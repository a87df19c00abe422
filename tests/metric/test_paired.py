import numpy as np
import pytest

from r1lab.metric.paired import paired, sign_flip_p


def test_hand_worked():
    # mean .2, sd .1, t = .2 / (.1 / sqrt(3)) = 3.4641 with 2 degrees of freedom:
    # p = 1 - t / sqrt(t^2 + 2) = 1 - 3.4641 / sqrt(14) = .074180. Of 8 sign patterns only +++ and --- reach the mean.
    result = paired([[0.1, 0.2, 0.3]])
    assert result.p == pytest.approx(0.074180, abs=1e-6) and result.test == "t"
    assert result.sign_flip_p == 2 / 8
    assert result.difference.low == pytest.approx(0.2 - 0.248414, abs=1e-6)


def test_inside_groups():
    # Means .2 and .6, sd .1 inside each: .4, error .1 / 2 * sqrt(2/3) = .040825, t 9.79796 with 4 degrees of freedom.
    # p = 1 - sin(a) (1 + cos^2(a) / 2), tan(a) = t / 2
    result = paired([[0.1, 0.2, 0.3], [0.5, 0.6, 0.7]])
    assert result.p == pytest.approx(0.000608, abs=1e-6) and result.sign_flip_p == 2 / 64
    # One pair a group leaves the signs.
    assert paired([[0.1], [0.2]]).p == 0.5


def test_sign_flip_by_enumeration():
    # |sum| = 4. Of +-1 +-2 +-3: 6, 4, 2, 0 and their negatives: four of eight are at least 4.
    assert sign_flip_p([-1, 2, 3]) == 4 / 8
    assert sign_flip_p([1, -1]) == 1.0
    # The order of additions must not decide what is as far as the observed sum.
    assert sign_flip_p([0.1, 0.2, 0.3, -0.1]) == sign_flip_p([0.3, -0.1, 0.2, 0.1])


@pytest.mark.parametrize(
    ("differences", "p", "test", "note"),
    [
        ([], None, "", "no value"),
        ([0.1], None, "", "one value"),
        ([0.1, 0.1, 0.1], 0.25, "sign flip", "all 3 values are equal"),
        ([0.0, 0.0], 1.0, "sign flip", "all 2 values are equal"),
        ([0.1] * 15, None, "", "all 15 values are equal"),
    ],
)
def test_undefined_says_why(differences, p, test, note):
    result = paired([differences])
    assert (result.p, result.test, result.difference.note) == (p, test, note)


def test_beyond_enumeration_only_t():
    result = paired([np.random.default_rng(0).normal(size=15)])
    assert result.sign_flip_p is None and result.test == "t"
    with pytest.raises(ValueError, match="1 to 14"):
        sign_flip_p([1.0] * 15)


def test_false_alarms_are_as_rare_as_they_say():
    # No effect, 2000 experiments of six pairs: p <= .05 in 5 % (standard error .5 %); the exact test, whose p values
    # are multiples of 2/64, in 2/64 = 3.1 %.
    results = [paired([row]) for row in np.random.default_rng(0).normal(size=(2000, 6))]
    assert abs(np.mean([r.p <= 0.05 for r in results]) - 0.05) < 0.015
    assert abs(np.mean([r.sign_flip_p <= 0.05 for r in results]) - 2 / 64) < 0.012
