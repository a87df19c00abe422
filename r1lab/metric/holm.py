"""Holm's correction: many comparisons at one risk of a false alarm."""

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values (Holm 1979, Scand. J. Statist. 6:65-70), in the order given.

    Calling significant what is at most alpha keeps the chance of even one false alarm among all m comparisons at alpha,
    however they depend on each other. The i-th smallest p is multiplied by m - i (i from 0), capped at 1, and raised to
    the one before it where it would fall below.

    Raises:
        ValueError: a p value outside [0, 1].
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"p values must be within [0, 1], got {list(p_values)}")
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted
