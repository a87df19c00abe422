"""The Pareto front: what no other point beats in everything."""

from collections.abc import Sequence

import numpy as np


def pareto_front(values: Sequence[Sequence[float]], maximize: Sequence[bool]) -> list[int]:
    """The indices of the points that none dominates: at least as good in each objective and better in one.

    Args:
        values: [n][objectives]. maximize: [objectives], True = larger is better.
    """
    gains = np.asarray(values, dtype=float).reshape(-1, len(maximize)) * np.where(maximize, 1, -1)
    dominated = [bool(((gains >= gain).all(1) & (gains > gain).any(1)).any()) for gain in gains]
    return [i for i, is_dominated in enumerate(dominated) if not is_dominated]
