"""What a paired design can see: the smallest effect that it detects, and the pairs that an effect needs."""

import numpy as np
from scipy.special import gammaincinv, ndtr, stdtrit

# Midpoints of the distribution of the estimated variance, over which power is averaged.
_QUANTILES = (np.arange(2000) + 0.5) / 2000


def power(effect: float, sd: float, n: int, *, groups: int = 1, alpha: float = 0.05) -> float:
    """The chance that a two-sided paired t test at level alpha calls a true mean difference significant.

    The noncentral t distribution as a mean over that of the estimated variance; scipy's own fails at the large
    noncentralities that two pairs need.

    Args:
        effect: true mean difference. sd: of one difference, above 0, same units. n: pairs, more than groups.
        groups: in which the pairs lie, equally many in each (`r1lab.metric.paired.paired`).

    Raises:
        ValueError: as many groups as pairs, or sd not above 0.
    """
    freedom = n - groups
    if freedom < 1 or not sd > 0:
        raise ValueError(f"needs two pairs and a spread, got n={n}, sd={sd}")
    estimated = np.sqrt(2 * gammaincinv(freedom / 2, _QUANTILES) / freedom)
    reach, shift = stdtrit(freedom, 1 - alpha / 2) * estimated, abs(effect) / sd * np.sqrt(n)
    return float((ndtr(shift - reach) + ndtr(-shift - reach)).mean())


def detectable_effect(sd: float, n: int, *, groups: int = 1, alpha: float = 0.05, target: float = 0.8) -> float:
    """The smallest true difference that the test detects with chance `target`; units of sd.

    Raises:
        ValueError: as `power`.
    """
    low, high = 0.0, sd
    while power(high, sd, n, groups=groups, alpha=alpha) < target:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, sd, n, groups=groups, alpha=alpha) >= target else (middle, high)
    return high


def pairs_needed(
    effect: float, sd: float, *, groups: int = 1, alpha: float = 0.05, target: float = 0.8, most: int = 10_000
) -> int | None:
    """The fewest pairs, more than groups, to detect a true difference with chance `target`; None: more than `most`."""
    low, high = groups, groups + 1
    while power(effect, sd, high, groups=groups, alpha=alpha) < target:
        low, high = high, 2 * high
        if low >= most:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, sd, middle, groups=groups, alpha=alpha) >= target else (middle, high)
    return high if high <= most else None
