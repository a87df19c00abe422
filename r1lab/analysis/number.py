"""How numbers read in tables and sentences."""

import math

from r1lab.metric.mean_interval import MeanInterval

NONE = "–"


def number(value: float | None, *, like: float | None = None, sign: bool = False) -> str:
    """Three digits after the point for scores, fewer for large numbers and more for small ones.

    Args:
        like: the number whose size decides; None: the value's own.
    """
    if value is None or not math.isfinite(value):
        return NONE
    # What rounding alone leaves over is zero.
    size = round(abs(value if like is None else like), 9)
    decimals = (
        0 if size >= 1000 else 1 if size >= 10 else 3 if size >= 0.01 or not size else 2 - math.floor(math.log10(size))
    )
    text = f"{value:{'+' if sign else ''}.{min(decimals, 9)}f}"
    # -0.000 is no number that anyone measured.
    return text.replace("-", "+" if sign else "") if not float(text) else text


def interval(result: MeanInterval, *, sign: bool = False, gap: str = " ") -> str:
    """`0.512 [0.480, 0.544]`; the mean alone where there is no interval."""
    if result.mean is None:
        return NONE
    if result.low is None:
        return number(result.mean, sign=sign)
    like = max(map(abs, (result.mean, result.low, result.high)))
    mean, low, high = (number(value, like=like, sign=sign) for value in (result.mean, result.low, result.high))
    return f"{mean}{gap}[{low}, {high}]"


def change(result: MeanInterval) -> str:
    """The mean of a difference, with the digits that its interval would have."""
    return NONE if result.mean is None else interval(result, sign=True).split(" ")[0]


def p_value(p: float | None) -> str:
    return NONE if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def counted(count: int, noun: str) -> str:
    """`1 seed`, `2 seeds`, `2 bases`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
