"""verdict.md: what a sweep asked, did, found and decides, in five lines that follow from its numbers alone."""

from collections.abc import Sequence

from r1lab.analysis.against import against_lines, pruning_decision
from r1lab.analysis.decision import decision, name_of, point_name
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
from r1lab.analysis.number import counted, interval, number, p_value
from r1lab.analysis.outlook import what_would_change_it
from r1lab.analysis.progress import progress, wall_hours
from r1lab.analysis.setting import describe, short_names
from r1lab.analysis.sweep import Sweep

# How many differences are told one by one.
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
    return "".join(f"- **{title}:** {' '.join(text.split())}\n" for title, text in parts.items())


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
    text += _front(sweep) + _held_out(sweep, of_objective(found, sweep.objectives[0])) + _secondary(sweep)
    if sweep.record.get("reported"):
        text += f" Reported: {sweep.record['reported'].strip().rstrip('.')}."
    return f"{text} {papers(sweep, found)}".rstrip()


def _objective_finding(sweep: Sweep, found: Sequence[Effect]) -> str:
    order, name = ranked(sweep, found), found[0].objective
    base = next((effect for effect in order if effect.point == sweep.baseline), None)
    if base is None:
        return f"{name}: best {_mean(sweep, order[0])}, worst {_mean(sweep, order[-1])}." if order else f"{name}: none."
    compared = [effect for effect in order if effect.comparison and effect.comparison.difference.n]
    if not sweep.is_search:
        # After the best one the surest first, and of those without a test the largest; of a search the best.
        compared.sort(key=lambda e: (e.p is None, e.p or 0.0, -abs(e.comparison.difference.mean)))
    best = [effect for effect in order if effect in compared][:1]
    first = [*best, *(effect for effect in compared if effect not in best)][:TOLD]
    told = [_difference(sweep, effect) for effect in first]
    significant = sum(effect.is_significant for effect in compared)
    text = f"{name}: baseline {_mean(sweep, base)}; against it {'; '.join(told) or 'nothing could be paired'}"
    if len(compared) > TOLD:
        text += f"; and {len(compared) - TOLD} more"
    tested = sum(effect.p is not None for effect in compared)
    text += "." if sweep.is_search else f". Significant after Holm: {significant} of {tested}."
    return text + _main_effects(sweep, name)


def _main_effects(sweep: Sweep, objective: str) -> str:
    """Of a whole grid of several factors: each level's difference, over all levels of the others."""
    names = factors(sweep)
    if not is_crossed(sweep) or len(names) < 2 or not is_complete(sweep):
        return ""
    short = short_names(sweep.treatments)
    told = [
        f"{describe({name: margin.level}, short)} {interval(margin.difference, sign=True)}"
        for name in names
        for margin in margins(sweep, name, objective)
        if margin.difference is not None
    ]
    return f" Over all levels of the other factors, unadjusted: {'; '.join(told)}." if told else ""


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
    shown = interval(mean_of(differences(sweep, best.point, column)), sign=True)
    title = "the best point" if best is order[0] else "the best other point"
    return f" Held-out pass@1 of {name_of(sweep, best)}, {title}: {shown} against the baseline's, unadjusted."


def _secondary(sweep: Sweep) -> str:
    """The other outcomes that the sweep names: the baseline's, and the largest differences to it, untested."""
    titles = {column: title for title, column in measures(sweep).items()}
    columns = sweep.record.get("secondary") or []
    told = "".join(f" {titles.get(column, column)}: {_outcome(sweep, column)}." for column in columns)
    return f" Beside it, unadjusted:{told}" if told else ""


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
