"""verdict.md: what a sweep asked, did, found and decides, in five lines that follow from its numbers alone."""

from collections.abc import Sequence

from r1lab.analysis.against import against_lines, pruning_decision
from r1lab.analysis.ceiling import definition
from r1lab.analysis.decision import decision, name_of, point_name
from r1lab.analysis.decoding import GREEDY, title
from r1lab.analysis.effects import (
    Effect,
    differences,
    factors,
    is_complete,
    is_crossed,
    margins,
    mean_of,
    measures,
    of_objective,
    ranked,
    values,
)
from r1lab.analysis.expected import papers
from r1lab.analysis.greedy import beside, greedy_change, greedy_effect, has_greedy, why_none
from r1lab.analysis.number import NONE, counted, interval, number, p_value
from r1lab.analysis.outlook import what_would_change_it
from r1lab.analysis.progress import progress, wall_hours
from r1lab.analysis.setting import describe, short_names
from r1lab.analysis.sweep import Sweep

# The number of differences that are listed individually.
TOLD = 4


def verdict(sweep: Sweep, found: Sequence[Effect], other: Sweep | None = None) -> str:
    """Five lines: question, set-up, finding, decision, what would change it.

    Args:
        other: a sweep of the same question, with or without pruning.
    """
    parts = {
        "Question": sweep.record.get("question") or "none was noted.",
        "Set-up": set_up(sweep),
        "Finding": " ".join([finding(sweep, found), *against_lines(sweep, other)]),
        "Decision": f"{decision(sweep, found)} {pruning_decision(sweep, other)}",
        "What would change it": what_would_change_it(sweep, found),
    }
    return "".join(f"- **{part}:** {' '.join(text.split())}\n" for part, text in parts.items())


def set_up(sweep: Sweep) -> str:
    record, seeds = sweep.record, sweep.seeds
    size = f"{counted(len(sweep.points), 'trial')} x {counted(len(record['seeds']), 'seed')}"
    if sweep.blocks:
        size += f", on {counted(seeds['block'].nunique(), 'level')} of {' and '.join(sweep.blocks)}"
    hours = f"{number(float(seeds['seconds'].astype(float).sum()) / 3600)} h of runs in {number(wall_hours(sweep))} h"
    return (
        f"commit {record.get('commit') or 'unknown'}; {record.get('device') or 'unknown device'}; {hours}; "
        f"{size}; {progress(sweep)}; `{record.get('command') or 'unknown command'}`"
    )


def finding(sweep: Sweep, found: Sequence[Effect]) -> str:
    text = " ".join(_objective_finding(sweep, of_objective(found, name)) for name in sweep.objectives)
    text += _greedy(sweep, found) + _front(sweep)
    text += _held_out(sweep, of_objective(found, sweep.objectives[0])) + _secondary(sweep)
    if sweep.record.get("reported"):
        text += f" Reported: {sweep.record['reported'].strip().rstrip('.')}."
    return f"{text} {papers(sweep, found)}".rstrip()


def _greedy(sweep: Sweep, found: Sequence[Effect]) -> str:
    """Greedy accuracy of the points of the first sentence, and what `saturated` means."""
    if reason := why_none(sweep):
        return f" Held-out greedy: {NONE}, {reason}."
    if sweep.baseline is None:
        order = ranked(sweep, of_objective(found, sweep.objectives[0]))
        told = [f"{name_of(sweep, e)} {interval(greedy_effect(sweep, e.point).mean)}" for e in order[:TOLD]]
        return f" Held-out greedy: {'; '.join(told)}."
    first = _first(sweep, of_objective(found, sweep.objectives[0]))
    changes = [(name_of(sweep, effect), greedy_change(sweep, effect.point)) for effect in first]
    told = "; ".join(f"{name} {change}" for name, change in changes if change)
    meaning = f" {definition(sweep)}" if "saturated" in told else ""
    return (
        f" Held-out greedy: baseline {interval(greedy_effect(sweep, sweep.baseline).mean)}; "
        f"against it {told or 'nothing could be paired'}.{meaning}"
    )


def _first(sweep: Sweep, found: Sequence[Effect]) -> list[Effect]:
    """The differences that are listed: the best point's, then the surest of a grid, the best of a search."""
    order = [e for e in ranked(sweep, found) if e.comparison and e.comparison.difference.n]
    # Of those without a test the largest.
    by_certainty = sorted(order, key=lambda e: (e.p is None, e.p or 0.0, -abs(e.comparison.difference.mean)))
    others = order if sweep.is_search else by_certainty
    return [*order[:1], *(effect for effect in others if effect not in order[:1])][:TOLD]


def _objective_finding(sweep: Sweep, found: Sequence[Effect]) -> str:
    order, name = ranked(sweep, found), title(sweep.record, found[0].objective)
    base = next((effect for effect in order if effect.point == sweep.baseline), None)
    if base is None:
        return f"{name}: best {_mean(sweep, order[0])}, worst {_mean(sweep, order[-1])}." if order else f"{name}: none."
    compared = [effect for effect in order if effect.comparison and effect.comparison.difference.n]
    told = [_difference(sweep, effect) for effect in _first(sweep, found)]
    significant = sum(effect.is_significant for effect in compared)
    text = f"{name}: baseline {_mean(sweep, base)}; against it {'; '.join(told) or 'nothing could be paired'}"
    if len(compared) > TOLD:
        text += f"; and {len(compared) - TOLD} more"
    tested = sum(effect.p is not None for effect in compared)
    text += "." if sweep.is_search else f". Significant after Holm: {significant} of {tested}."
    return text + _main_effects(sweep, found[0].objective)


def _main_effects(sweep: Sweep, objective: str) -> str:
    """Of a whole grid of several factors: each level's difference, over all levels of the others, and in greedy."""
    names = factors(sweep)
    if not is_crossed(sweep) or len(names) < 2 or not is_complete(sweep):
        return ""
    text, scores = "", [objective, GREEDY] if has_greedy(sweep) and objective == sweep.objectives[0] else [objective]
    short = short_names(sweep.treatments)
    for score in scores:
        told = [
            f"{describe({name: margin.level}, short)} {interval(margin.difference, sign=True)}"
            for name in names
            for margin in margins(sweep, name, score)
            if margin.difference is not None
        ]
        what = f" in {title(sweep.record, score)}" if len(scores) > 1 else ""
        text += f" Over all levels of the other factors{what}, unadjusted: {'; '.join(told)}." if told else ""
    return text


def _front(sweep: Sweep) -> str:
    """Of several objectives: the points that none other beats in all."""
    if len(sweep.objectives) < 2:
        return ""
    numbers = {trial.number for trial in sweep.study.best_trials}
    points = sweep.points.loc[sweep.points["trial"].isin(numbers), "point"].dropna().unique()
    names = [point_name(sweep, int(point)) for point in points]
    more = f" and {len(names) - 2 * TOLD} more" if len(names) > 2 * TOLD else ""
    return f" On the Pareto front: {'; '.join(names[: 2 * TOLD])}{more}."


def _held_out(sweep: Sweep, found: Sequence[Effect]) -> str:
    """The best point beside the baseline, on prompts that did not choose it."""
    order = ranked(sweep, found)
    best = next((effect for effect in order if effect.comparison), None)
    column = "after/heldout/pass_at_1"
    named = {column, column.removeprefix("after/")} & set(sweep.objectives)
    if best is None or named or differences(sweep, best.point, column).empty:
        return ""
    shown = interval(mean_of(differences(sweep, best.point, column)), sign=True) + beside(sweep, best.point)
    which = "the best point" if best is order[0] else "the best other point"
    score = _titles(sweep)[column].replace("held", "Held", 1)
    return f" {score} of {name_of(sweep, best)}, {which}: {shown} against the baseline's, unadjusted."


def _secondary(sweep: Sweep) -> str:
    """The other outcomes that the sweep names: the baseline's, and the largest differences to it, untested."""
    titles, columns = _titles(sweep), sweep.record.get("secondary") or []
    headings = {column: titles.get(column) or title(sweep.record, column) for column in columns}
    told = "".join(f" {heading}: {_outcome(sweep, column)}." for column, heading in headings.items())
    return f" Beside it, unadjusted:{told}" if told else ""


def _titles(sweep: Sweep) -> dict[str, str]:
    """Column -> heading, of what the tables have beside the objectives."""
    return {column: name for name, column in measures(sweep).items()}


def _outcome(sweep: Sweep, column: str) -> str:
    means = {point: mean_of(values(sweep, [point], column)) for point in range(len(sweep.settings))}
    known = [point for point, mean in means.items() if mean.mean is not None]
    if not known:
        return "not measured"
    tell = lambda point, told: f"{point_name(sweep, point)} {told}"  # noqa: E731
    if sweep.baseline not in known:
        return "; ".join(tell(point, interval(means[point])) for point in known[:TOLD])
    changes = {point: mean_of(differences(sweep, point, column)) for point in known if point != sweep.baseline}
    order = sorted((p for p in changes if changes[p].n), key=lambda point: -abs(changes[point].mean))[:TOLD]
    base = tell(sweep.baseline, interval(means[sweep.baseline]))
    return "; ".join([base, *(tell(point, interval(changes[point], sign=True)) for point in order)])


def _mean(sweep: Sweep, effect: Effect) -> str:
    return f"{name_of(sweep, effect)} {interval(effect.mean)} (n {effect.mean.n})"


def _difference(sweep: Sweep, effect: Effect) -> str:
    told = f"{name_of(sweep, effect)} {interval(effect.comparison.difference, sign=True)}"
    if sweep.is_search:
        return told
    return f"{told} ({'untested' if effect.p is None else f'p {p_value(effect.p)}'})"
