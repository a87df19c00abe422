import numpy as np
import pytest
from scipy.stats import nct, t

from r1lab.metric.paired import paired
from r1lab.metric.power import detectable_effect, pairs_needed, power


@pytest.mark.parametrize(("n", "alpha"), [(3, 0.05), (10, 0.05), (10, 0.01), (40, 0.05)])
def test_equals_the_noncentral_t(n, alpha):
    critical = t.isf(alpha / 2, n - 1)
    expected = nct.sf(critical, n - 1, np.sqrt(n)) + nct.cdf(-critical, n - 1, np.sqrt(n))
    assert power(1.0, 1.0, n, alpha=alpha) == pytest.approx(expected, abs=1e-4)


def test_share_of_simulated_experiments_that_find_it():
    # Ten pairs, effect of one sd: the textbook's .803; 2000 experiments measure it with a standard error of .009.
    draws = np.random.default_rng(0).normal(1, 1, (2000, 10))
    assert power(1, 1, 10) == pytest.approx(0.803, abs=0.001)
    assert abs(np.mean([paired([row]).p <= 0.05 for row in draws]) - 0.803) < 0.027


def test_without_an_effect_power_is_alpha():
    assert power(0, 1, 5, alpha=0.05) == pytest.approx(0.05, abs=1e-4)


@pytest.mark.parametrize(("n", "alpha"), [(2, 0.05), (2, 0.05 / 20), (5, 0.01), (30, 0.05)])
def test_the_smallest_effect_is_found_four_times_in_five(n, alpha):
    effect = detectable_effect(0.3, n, alpha=alpha)
    assert power(effect, 0.3, n, alpha=alpha) == pytest.approx(0.8, abs=1e-6)
    assert effect == pytest.approx(3 * detectable_effect(0.1, n, alpha=alpha))


def test_pairs_needed():
    assert pairs_needed(1, 1) == 10  # 9 pairs: .75
    for effect in (0.3, 2.0, 5.0):
        n = pairs_needed(effect, 1)
        assert power(effect, 1, n) >= 0.8 and (n == 2 or power(effect, 1, n - 1) < 0.8)
    assert pairs_needed(1e-6, 1) is None and pairs_needed(0.0, 1, most=50) is None


@pytest.mark.parametrize(("n", "sd"), [(1, 1.0), (3, 0.0)])
def test_refuses(n, sd):
    with pytest.raises(ValueError):
        power(1, sd, n)
