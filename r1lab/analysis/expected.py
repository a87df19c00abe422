"""What papers report beside what a sweep found: agrees, the opposite, or not settled."""

from collections.abc import Sequence
from typing import Any

from r1lab.analysis import decoding
from r1lab.analysis.decision import point_name
from r1lab.analysis.effects import ALPHA, Effect, effects, measures
from r1lab.analysis.greedy import beside
from r1lab.analysis.number import interval, p_value
from r1lab.analysis.setting import key
from r1lab.analysis.sweep import Sweep
from r1lab.metric.mean_interval import MeanInterval

LOWER, EQUAL = "lower", "equal"  # the third is higher


def papers(sweep: Sweep, found: Sequence[Effect]) -> str:
    """A sentence for each entry of the sweep's `expected`; empty without any."""
    return " ".join(_sentence(sweep, entry, found) for entry in sweep.record.get("expected") or [])


def _sentence(sweep: Sweep, entry: dict[str, Any], found: Sequence[Effect]) -> str:
    column = entry.get("measure") or sweep.objectives[0]
    titles = {name: title for title, name in measures(sweep).items()}
    title = titles.get(column, decoding.title(sweep.record, column))
    point = _point(sweep, entry["point"])
    if point is None or sweep.baseline in (None, point):
        return f"{entry['source']} on {entry['point']}: there is nothing to compare."
    # Another outcome than the objectives is corrected over the points alone.
    known = found if column in sweep.objectives else effects(sweep, [column])
    effect = next(e for e in known if e.point == point and e.objective == column)
    change = effect.comparison.difference
    told = f"{entry['source']}: {title} of {point_name(sweep, point)} {entry['direction']}"
    if not change.n:
        return f"{told}; here not measured."
    outcome = judged(change, effect.p, entry["direction"], sweep.record.get("minimum_effect") or 0.0)
    p = "" if effect.p is None else f", p {p_value(effect.p)}"
    greedy = beside(sweep, point) if column in sweep.objectives else ""
    return f"{told}; here {outcome} ({interval(change, sign=True)}{p}){greedy}."


def _point(sweep: Sweep, wanted: dict[str, Any]) -> int | None:
    """The one point that has these values."""
    want = {(name, key(value)) for name, value in wanted.items()}
    found = [i for i, s in enumerate(sweep.settings) if want <= {(name, key(value)) for name, value in s.items()}]
    return found[0] if len(found) == 1 else None


def judged(difference: MeanInterval, p: float | None, direction: str, minimum: float) -> str:
    """`agrees`, `the opposite` (`it differs`) or `not settled`: a difference counts where p, adjusted, says so.

    `equal` agrees where the 95 % interval lies within the smallest difference that matters.
    """
    is_sure = p is not None and p <= ALPHA
    if direction == EQUAL:
        low, high = difference.low, difference.high
        if difference.sd == 0:  # the same in every pair
            low = high = difference.mean
        if low is not None and -minimum <= low and high <= minimum:
            return "agrees"
        return "it differs" if is_sure else "not settled"
    if not is_sure:
        return "not settled"
    return "agrees" if (difference.mean < 0) == (direction == LOWER) else "the opposite"
