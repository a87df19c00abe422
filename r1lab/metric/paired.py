"""Two treatments compared on the same seeds: the mean difference and how surely it is not zero."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from r1lab.metric.mean_interval import MeanInterval, equal, mean_interval, standard_error

# 2^14 sign patterns are quick to enumerate.
MOST_EXACT = 14


@dataclass(frozen=True)
class Paired:
    """difference: mean difference with its t interval. p: two-sided, by the test that `test` names ("t", "sign flip");
    None where neither is defined. sign_flip_p: None beyond `MOST_EXACT` pairs and without a pair."""

    difference: MeanInterval
    p: float | None
    test: str
    sign_flip_p: float | None


def paired(groups: Sequence[Sequence[float]], *, level: float = 0.95) -> Paired:
    """Compare by the differences of n pairs, treatment minus baseline; groups as in `mean_interval`.

    p is that of the paired t test (Student 1908), with n - k degrees of freedom in k groups: it is about these groups,
    and another draw of pairs inside them. Where t is undefined, all differences of a group being equal or single, p is
    that of the sign-flip test. A single pair has no p.

    Raises:
        ValueError: a difference that is not finite.
    """
    arrays = [np.asarray(group, dtype=float) for group in groups if len(group)]
    interval = mean_interval(arrays, level=level)
    # Each group counts once, whatever its size.
    values = np.concatenate([array / len(array) for array in arrays]) if arrays else np.zeros(0)
    exact = sign_flip_p(values) if 2 <= len(values) <= MOST_EXACT else None
    if interval.sd:
        t = interval.mean / standard_error(interval.sd, [len(array) for array in arrays])
        return Paired(interval, float(2 * stdtr(len(values) - len(arrays), -abs(t))), "t", exact)
    return Paired(interval, exact, "sign flip" if exact is not None else "", exact)


def sign_flip_p(differences: Sequence[float] | np.ndarray) -> float:
    """Exact two-sided p value under flips of the signs (Fisher 1935): without an effect each difference could as well
    have had the other sign.

    The share of all 2^n sign patterns whose mean is at least as far from zero as the observed one; so never below
    2 / 2^n.

    Args:
        differences: [n], 1 <= n <= `MOST_EXACT`.

    Raises:
        ValueError: no difference, or more than can be enumerated.
    """
    values = np.asarray(differences, dtype=float)
    n = len(values)
    if not 1 <= n <= MOST_EXACT:
        raise ValueError(f"the sign-flip test takes 1 to {MOST_EXACT} differences, got {n}")
    if equal(values) and abs(values[0]) <= 1e-12:
        return 1.0
    signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    sums = np.abs(signs @ values)
    # Sums that are equal but for the order of their additions count as reached.
    return float((sums >= abs(values.sum()) - 1e-9 * np.abs(values).sum()).mean())
