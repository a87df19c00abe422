"""Where spread comes from: between groups (bases), or within them (seeds)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """Standard deviations, in the units of the values: of group means around each other, of values in their group."""

    between: float
    within: float


def spread(groups: Sequence[Sequence[float]]) -> Spread:
    """Variance components of the one-way layout `value = mean + group + rest` by the analysis of variance.

    `within^2 = MS_within`, `between^2 = max(0, (MS_between - MS_within) / n)`: chance alone moves group means, and what
    it explains is taken off. n is the size of a group; where sizes differ, `(N - sum n_g^2 / N) / (k - 1)` (Searle,
    Casella and McCulloch 1992, section 3.6).

    Raises:
        ValueError: fewer than two groups, or none with two values: the two cannot be told apart.
    """
    arrays = [np.asarray(group, dtype=float) for group in groups if len(group)]
    sizes = np.array([len(array) for array in arrays], dtype=float)
    total, k = sizes.sum(), len(arrays)
    if k < 2 or total == k:
        raise ValueError("needs two groups, and two values in one of them")
    means = np.array([array.mean() for array in arrays])
    within = sum(((array - array.mean()) ** 2).sum() for array in arrays) / (total - k)
    between = (sizes * (means - (sizes * means).sum() / total) ** 2).sum() / (k - 1)
    size = (total - (sizes**2).sum() / total) / (k - 1)
    return Spread(float(np.sqrt(max(0.0, (between - within) / size))), float(np.sqrt(within)))
