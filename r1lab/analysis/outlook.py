"""What would change a sweep's decision: what its design could have seen, more seeds, other bases."""

from collections.abc import Sequence

import pandas as pd

from r1lab.analysis.curve_panels import curve_metric
from r1lab.analysis.decision import name_of, point_name
from r1lab.analysis.decoding import title
from r1lab.analysis.effects import ALPHA, Effect, differences, of_objective, ranked, values
from r1lab.analysis.number import counted, interval, number
from r1lab.analysis.sweep import Sweep
from r1lab.metric.power import detectable_effect, pairs_needed
from r1lab.metric.spread import spread


def what_would_change_it(sweep: Sweep, found: Sequence[Effect]) -> str:
    first = of_objective(found, sweep.objectives[0])
    lines = [
        _still_rising(sweep),
        *([] if sweep.is_search else [_detectable(sweep, first, found), _seeds_needed(sweep, first, found)]),
        _bases(sweep, first),
    ]
    if sweep.is_search and len(first) > 1:
        lines.append(
            f"The best of {len(first)} points looks better than it is: run it and the baseline on seeds of their own."
        )
    return " ".join(line for line in lines if line)


def _still_rising(sweep: Sweep) -> str:
    """Where scores were taken on a slope they tell how fast a setting learns, not how far."""
    metric, minimum = curve_metric(sweep), sweep.record.get("minimum_effect") or 0.0
    rows = sweep.curves[sweep.curves["counted"].eq(True)] if metric else sweep.curves
    by_step = rows.groupby("step")[metric].mean().sort_index() if metric else pd.Series(dtype=float)
    if len(by_step) < 2:
        return ""
    gain = by_step.iloc[-1] - by_step.iloc[-2]
    if abs(gain) <= minimum:
        return ""
    steps = counted(int(by_step.index[-1] - by_step.index[-2]), "step")
    return (
        f"{title(sweep.record, metric)} still moved by {number(gain, sign=True)} in the last {steps}: "
        "it compares speed, not where it ends."
    )


def alpha(found: Sequence[Effect]) -> float:
    """The level of Holm's first step, which the smallest p value has to pass."""
    return ALPHA / max(1, sum(effect.p is not None for effect in found))


def _unsettled(first: Sequence[Effect]) -> list[Effect]:
    """The largest difference first."""
    found = [e for e in first if e.comparison and e.comparison.difference.n and not e.is_significant]
    return sorted(found, key=lambda effect: -abs(effect.comparison.difference.mean))


def _detectable(sweep: Sweep, first: Sequence[Effect], found: Sequence[Effect]) -> str:
    """Of each difference that is open, by its own spread: one that is large has no say in how well others are seen."""
    told, minimum = [], sweep.record.get("minimum_effect")
    for effect in _unsettled(first):
        change, groups = effect.comparison.difference, _blocks(sweep, effect)
        if not change.sd:
            continue
        least = detectable_effect(change.sd, change.n, groups=groups, alpha=alpha(found))
        pairs = pairs_needed(minimum, change.sd, groups=groups, alpha=alpha(found)) if minimum else None
        more = f" ({counted(pairs, 'pair')} for {number(minimum)})" if pairs else ""
        can_be = least <= 1 or "pass_at" not in sweep.objectives[0]
        seen = number(least) if can_be else "no difference that an accuracy can have"
        told.append(f"{seen} with {counted(change.n, 'pair')}{more} of {name_of(sweep, effect)}")
    return f"Would have been found four times in five: {'; '.join(told)}." if told else ""


def _blocks(sweep: Sweep, effect: Effect) -> int:
    """In how many blocks the pairs of an effect lie."""
    return differences(sweep, effect.point, effect.objective).index.get_level_values("block").nunique()


def _seeds_needed(sweep: Sweep, first: Sequence[Effect], found: Sequence[Effect]) -> str:
    unsettled = _unsettled(first)
    if not unsettled:
        return "No difference is unsettled." if any(e.comparison for e in first) else ""
    largest = unsettled[0]
    sd = largest.comparison.difference.sd
    size = abs(largest.comparison.difference.mean)
    if not sd or not size:
        return f"How many seeds would settle {name_of(sweep, largest)} is unknown: its differences have no spread."
    blocks = _blocks(sweep, largest)
    pairs = pairs_needed(size, sd, groups=blocks, alpha=alpha(found))
    if pairs is not None:
        # The pairs that are there have not settled it.
        pairs = max(pairs, largest.comparison.difference.n + 1)
    seeds = "more than ten thousand pairs" if pairs is None else counted(-(-pairs // blocks), "seed")
    each = " on each base" if pairs and blocks > 1 else ""
    shown = interval(largest.comparison.difference, sign=True)
    return (
        f"The largest unsettled difference, {name_of(sweep, largest)} {shown}, would take {seeds}{each} if it is real."
    )


def _bases(sweep: Sweep, first: Sequence[Effect]) -> str:
    """Spread between the levels of the blocks beside that between seeds: of the scores, and of the largest effect."""
    if not sweep.blocks:
        return ""
    name = " x ".join(sweep.blocks)
    compared = [e for e in ranked(sweep, first) if e.comparison and e.comparison.difference.n]
    best = max(compared, key=lambda e: abs(e.comparison.difference.mean), default=None)
    point = sweep.baseline if sweep.baseline is not None else ranked(sweep, first)[0].point
    scores = values(sweep, [point], first[0].objective)
    where = point_name(sweep, point)
    text = f"Spread of {title(sweep.record, first[0].objective)} over {name}: {_spread_of(scores)} of {where}"
    if best is not None:
        change = differences(sweep, best.point, best.objective)
        text += f"; {_spread_of(change)} of the difference of {name_of(sweep, best)}"
    return text + "."


def _spread_of(column: pd.Series) -> str:
    groups = [group.to_numpy() for _, group in column.groupby("block")]
    try:
        found = spread(groups)
    except ValueError:
        return "not to be told from that of seeds (it takes two bases and two seeds)"
    return f"sd {number(found.between)} between bases and {number(found.within)} between seeds"
