"""The mean over seeds, and how far another draw of seeds could move it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit


@dataclass(frozen=True)
class MeanInterval:
    """A mean with its interval, all in the units of the values.

    mean: None where there is no value. low, high: None where the values do not determine them; `note` then says why.
    sd: of one value around the mean of its group; None where no group has two values. n: number of values.
    """

    mean: float | None
    low: float | None
    high: float | None
    sd: float | None
    n: int
    note: str = ""


def mean_interval(groups: Sequence[Sequence[float]], *, level: float = 0.95) -> MeanInterval:
    """Student's t interval (1908) of a mean; with several groups, of the mean of the group means.

    Groups are what the statement is about (bases, say): their spread is not in the interval, that of the values inside
    them is, pooled: `sd^2 = sum_g SS_g / (N - k)`, standard error `sd / k * sqrt(sum_g 1 / n_g)`, N - k degrees of
    freedom. With one group this is the textbook interval.

    Args:
        groups: [k][n_g], finite; empty groups are passed over.
        level: share of repetitions whose interval should hold the true mean, in (0, 1).

    Raises:
        ValueError: a value that is not finite, or a level outside (0, 1).
    """
    arrays = [np.asarray(group, dtype=float) for group in groups if len(group)]
    n, k = sum(map(len, arrays)), len(arrays)
    if not 0 < level < 1:
        raise ValueError(f"level must be within (0, 1), got {level}")
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError("values must be finite")
    if not n:
        return MeanInterval(None, None, None, None, 0, "no value")
    mean = float(np.mean([array.mean() for array in arrays]))
    if n == k:
        return MeanInterval(mean, None, None, None, n, "one value" if n == 1 else "one value in each group")
    if all(equal(array) for array in arrays):
        return MeanInterval(mean, None, None, 0.0, n, f"all {n} values are equal" if k == 1 else "no spread in a group")
    sd = float(np.sqrt(sum(((array - array.mean()) ** 2).sum() for array in arrays) / (n - k)))
    half = float(stdtrit(n - k, (1 + level) / 2)) * standard_error(sd, [len(array) for array in arrays])
    return MeanInterval(mean, mean - half, mean + half, sd, n)


def standard_error(sd: float, sizes: Sequence[int]) -> float:
    """Of the mean of the means of groups of these sizes, whose values have the standard deviation sd."""
    return sd / len(sizes) * float(np.sqrt(sum(1 / size for size in sizes)))


def equal(values: np.ndarray) -> bool:
    """Whether values differ by rounding alone: 0.7 - 0.5 and 0.8 - 0.6 do, and are no spread to divide by."""
    return float(np.ptp(values)) <= max(1e-12, 1e-9 * float(np.abs(values).max()))
