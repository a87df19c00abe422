"""What a sweep decides, by rule: the baseline stays unless a level is surely and sufficiently better."""

from collections.abc import Sequence

from r1lab.analysis.effects import ALPHA, Effect, compared, differences, of_objective, ranked
from r1lab.analysis.greedy import beside
from r1lab.analysis.number import interval, number, p_value
from r1lab.analysis.progress import is_unfinished
from r1lab.analysis.setting import describe, short_names
from r1lab.analysis.sweep import Sweep
from r1lab.metric.holm import holm


def decision(sweep: Sweep, found: Sequence[Effect]) -> str:
    start = "preliminary, as the sweep is unfinished: " if is_unfinished(sweep) else ""
    return start + _decision(sweep, of_objective(found, sweep.objectives[0]), found)


def _decision(sweep: Sweep, first: Sequence[Effect], found: Sequence[Effect]) -> str:
    """Keep the baseline unless a level is significantly better, by at least the smallest effect that matters."""
    minimum = sweep.record.get("minimum_effect")
    rule = f"at least {number(minimum)} and significant after Holm" if minimum else "significant after Holm"
    if sweep.baseline is None:
        best = ranked(sweep, first)
        return f"none, since {sweep.baseline_note}. The best mean is that of {name_of(sweep, best[0])}."
    if sweep.is_search:
        return _of_search(sweep, first)
    if all(effect.p is None for effect in first):
        return f"keep the baseline. Nothing could be tested: {_why_untested(first)}."
    better = [e for e in ranked(sweep, first) if e.is_significant and gain(sweep, e) > 0]
    enough = [e for e in better if gain(sweep, e) >= (minimum or 0.0)]
    unspoiled = [e for e in enough if not _worse_elsewhere(sweep, e, found)]
    if unspoiled:
        best = unspoiled[0]
        change = interval(best.comparison.difference, sign=True) + beside(sweep, best.point)
        text = f"change to {name_of(sweep, best)}: it is better by {change}, {rule} (p {p_value(best.p)})."
        return text + _without_shape(best) + _like(sweep, best, first)
    if enough:
        return f"keep the baseline. {name_of(sweep, enough[0])} is better but significantly worse in another objective."
    if better:
        gained = number(gain(sweep, better[0]), sign=True) + beside(sweep, better[0].point)
        text = f"{name_of(sweep, better[0])} is significantly better, but its {gained} is below {number(minimum)}"
        return f"keep the baseline. {text}."
    return f"keep the baseline. No level is better ({rule} is the rule); that does not show that they are equal."


def _of_search(sweep: Sweep, first: Sequence[Effect]) -> str:
    """The best of many was chosen by the numbers that a test would take."""
    others = [e for e in ranked(sweep, first) if e.comparison and e.comparison.difference.n]
    if not others or gain(sweep, others[0]) <= 0:
        return "keep the baseline: no other point has a better mean."
    change = f"({interval(others[0].comparison.difference, sign=True)}){beside(sweep, others[0].point)}"
    return (
        f"keep the baseline, until {name_of(sweep, others[0])} {change} is better on seeds of its own: the best of "
        f"{len(first)} points is not tested on those that chose it."
    )


def _like(sweep: Sweep, best: Effect, first: Sequence[Effect]) -> str:
    """The points that a paired test does not tell apart from the best one."""
    others = [e for e in ranked(sweep, first) if e.point not in (best.point, sweep.baseline)]
    tests = [compared(differences(sweep, best.point, best.objective, e.point)).p for e in others]
    known = [(e, p) for e, p in zip(others, tests, strict=True) if p is not None]
    adjusted = holm([p for _, p in known])
    alike = [name_of(sweep, e) for (e, _), p in zip(known, adjusted, strict=True) if p > ALPHA]
    if not alike:
        return ""
    return (
        f" Not told apart from it (paired, after Holm), so that the simplest of all may be taken: {'; '.join(alike)}."
    )


def _without_shape(effect: Effect) -> str:
    """What a t test of few pairs rests on."""
    exact = effect.comparison.sign_flip_p
    if effect.comparison.test != "t" or exact is None or exact <= ALPHA:
        return ""
    return (
        f" With {effect.comparison.difference.n} pairs this rests on differences that are normally distributed: the "
        f"exact sign-flip test alone gives p {p_value(exact)}."
    )


def gain(sweep: Sweep, effect: Effect) -> float:
    """The difference, positive where the point is better than the baseline."""
    sign = 1 if sweep.maximize(effect.objective) else -1
    return sign * effect.comparison.difference.mean


def _worse_elsewhere(sweep: Sweep, effect: Effect, found: Sequence[Effect]) -> bool:
    others = [e for e in found if e.point == effect.point and e.objective != effect.objective and e.comparison]
    return any(e.is_significant and gain(sweep, e) < 0 for e in others)


def _why_untested(first: Sequence[Effect]) -> str:
    reasons = {effect.comparison.difference.note.replace("value", "pair") for effect in first if effect.comparison}
    return " or ".join(sorted(reasons)) or "the baseline is the only point"


def name_of(sweep: Sweep, effect: Effect) -> str:
    return point_name(sweep, effect.point)


def point_name(sweep: Sweep, point: int) -> str:
    return describe(sweep.settings[point], short_names(sweep.treatments)) or "the one point"
