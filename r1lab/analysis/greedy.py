"""Greedy accuracy beside the sampled one, which also rises as a policy loses entropy."""

from r1lab.analysis.ceiling import saturation
from r1lab.analysis.decoding import GREEDY
from r1lab.analysis.effects import Effect, effect_at
from r1lab.analysis.number import interval
from r1lab.analysis.sweep import Sweep


def has_greedy(sweep: Sweep) -> bool:
    return GREEDY in sweep.seeds and bool(sweep.seeds.loc[sweep.seeds["counted"], GREEDY].notna().any())


def why_none(sweep: Sweep) -> str:
    """Why a sweep has no greedy accuracy; empty where it has."""
    if has_greedy(sweep):
        return ""
    scored = any(name.startswith("after/") for name in sweep.seeds)
    return "the scores after training lack it" if scored else "no run was scored on held-out prompts after training"


def greedy_effect(sweep: Sweep, point: int) -> Effect:
    """Held-out greedy accuracy of a point and the difference to the baseline."""
    return effect_at(sweep, point, GREEDY)


def greedy_change(sweep: Sweep, point: int, *, gap: str = " ") -> str:
    """`+0.001 [-0.016, +0.019], saturated`: the difference to the baseline; empty where none was measured."""
    comparison = greedy_effect(sweep, point).comparison
    if comparison is None or not comparison.difference.n:
        return ""
    words = [interval(comparison.difference, sign=True, gap=gap), saturation(sweep, point)]
    return f",{gap}".join(word for word in words if word)


def beside(sweep: Sweep, point: int) -> str:
    """` (held-out greedy +0.001 [-0.016, +0.019], saturated)`, to stand behind a difference at T 1."""
    change = greedy_change(sweep, point)
    return f" (held-out greedy {change})" if change else ""
