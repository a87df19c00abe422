"""What papers report beside what a sweep found: agrees, the opposite, or not settled."""

from typing import Any

from r1lab.analysis.decision import point_name
from r1lab.analysis.effects import differences, measures
from r1lab.analysis.number import interval
from r1lab.analysis.setting import key
from r1lab.analysis.sweep import Sweep
from r1lab.metric.mean_interval import MeanInterval, mean_interval

LOWER, EQUAL = "lower", "equal"  # the third is higher


def papers(sweep: Sweep) -> str:
    """A sentence for each entry of the sweep's `expected`; empty without any."""
    return " ".join(_sentence(sweep, entry) for entry in sweep.record.get("expected") or [])


def _sentence(sweep: Sweep, entry: dict[str, Any]) -> str:
    column = entry.get("measure") or sweep.objectives[0]
    title = {name: title for title, name in measures(sweep).items()}.get(column, column)
    point = _point(sweep, entry["point"])
    if point is None or sweep.baseline in (None, point):
        return f"{entry['source']} on {entry['point']}: there is nothing to compare."
    found = mean_interval([differences(sweep, point, column)])
    told = f"{entry['source']}: {title} of {point_name(sweep, point)} {entry['direction']}"
    if not found.n:
        return f"{told}; here not measured."
    outcome = judged(found, entry["direction"], sweep.record.get("minimum_effect") or 0.0)
    return f"{told}; here {outcome} ({interval(found, sign=True)})."


def _point(sweep: Sweep, wanted: dict[str, Any]) -> int | None:
    """The one point that has these values."""
    want = {(name, key(value)) for name, value in wanted.items()}
    found = [i for i, s in enumerate(sweep.settings) if want <= {(name, key(value)) for name, value in s.items()}]
    return found[0] if len(found) == 1 else None


def judged(difference: MeanInterval, direction: str, minimum: float) -> str:
    """`agrees`, `the opposite` (`it differs`) or `not settled`, by the 95 % interval of one difference, unadjusted.

    `equal` agrees where the interval lies within the smallest difference that matters, and is contradicted by one that
    leaves 0 out and does not.
    """
    low, high = difference.low, difference.high
    if difference.sd == 0:  # the same in every pair
        low = high = difference.mean
    if low is None or high is None:
        return "not settled"
    above, below = low > 0, high < 0
    if direction == EQUAL:
        within = -minimum <= low and high <= minimum
        return "agrees" if within else "it differs" if above or below else "not settled"
    return "agrees" if (above, below)[direction == LOWER] else "the opposite" if above or below else "not settled"
