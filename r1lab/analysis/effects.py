"""What a sweep shows: the mean of each point, its difference to the baseline, and what may explain it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from r1lab.analysis.decoding import decoding
from r1lab.analysis.setting import describe, key, short_names
from r1lab.analysis.sweep import Sweep
from r1lab.metric.holm import holm
from r1lab.metric.mean_interval import MeanInterval, mean_interval
from r1lab.metric.paired import Paired, paired

# Chance of even one false alarm in a sweep.
ALPHA = 0.05

# (title, columns of Sweep.seeds of which the first that is there is shown)
MEASURES = (
    ("held-out pass@1", ("after/heldout/pass_at_1",)),
    ("harder pass@1", ("after/harder/pass_at_1",)),
    ("format", ("after/heldout/format", "last/validation/format")),
    ("completion length", ("after/heldout/completion_length", "last/rollout/completion_length")),
    ("wrong length", ("after/heldout/wrong_completion_length", "last/rollout/wrong_completion_length")),
    ("reasoning length", ("after/heldout/reasoning_length", "last/rollout/reasoning_length")),
    ("KL to the base", ("after/heldout/kl_to_base",)),
    ("KL to the reference", ("mean/loss/kl", "last/loss/kl")),
    ("entropy", ("mean/loss/entropy", "last/loss/entropy")),
    ("clip fraction", ("mean/loss/clip_fraction", "last/loss/clip_fraction")),
    ("zero-std groups", ("mean/advantage/zero_std_groups", "last/advantage/zero_std_groups")),
    ("seconds", ("seconds",)),
    ("memory MiB", ("memory_mib",)),
)


@dataclass(frozen=True)
class Effect:
    """One objective at one point. comparison: with the baseline over common (block, seed); None at the baseline itself
    and without one. p: adjusted over all comparisons of the sweep; None where no test is defined, and in a search,
    whose best point was chosen by the very numbers that a test would take."""

    point: int
    objective: str
    mean: MeanInterval
    comparison: Paired | None = None
    p: float | None = None

    @property
    def is_significant(self) -> bool:
        return self.p is not None and self.p <= ALPHA


@dataclass(frozen=True)
class Margin:
    """A level of one factor, over all levels of the others: its mean, its difference to the factor's baseline, and its
    mean of each seed, indexed (block, seed). Points with the same seed are one piece of evidence, not several."""

    param: str
    level: Any
    mean: MeanInterval
    difference: MeanInterval | None
    by_seed: pd.Series


def effects(sweep: Sweep, columns: Sequence[str] | None = None) -> list[Effect]:
    """All points, by column and then by point; p values adjusted together (`r1lab.metric.holm`).

    Args:
        columns: of Sweep.seeds; None: the objectives.
    """
    found = [effect_at(sweep, p, name) for name in columns or sweep.objectives for p in range(len(sweep.settings))]
    if sweep.is_search:
        return found
    tested = [i for i, effect in enumerate(found) if effect.comparison and effect.comparison.p is not None]
    for i, p in zip(tested, holm([found[i].comparison.p for i in tested]), strict=True):
        found[i] = replace(found[i], p=p)
    return found


def of_objective(found: Sequence[Effect], objective: str) -> list[Effect]:
    return [effect for effect in found if effect.objective == objective]


def effect_at(sweep: Sweep, point: int, objective: str) -> Effect:
    """One column at one point, without a p value, which depends on all comparisons."""
    mean = mean_of(values(sweep, [point], objective))
    if sweep.baseline is None or point == sweep.baseline:
        return Effect(point, objective, mean)
    return Effect(point, objective, mean, compared(differences(sweep, point, objective)))


def compared(change: pd.Series) -> Paired:
    """Differences indexed (block, seed): tested inside the blocks, like the means."""
    return paired([group.to_numpy() for _, group in change.groupby("block")])


def values(sweep: Sweep, points: Sequence[int], column: str) -> pd.Series:
    """A column of the counted seeds of some points, indexed (point, block, seed); missing ones left out."""
    if column not in sweep.seeds:
        return pd.Series(dtype=float, index=pd.MultiIndex.from_arrays([[]] * 3, names=["point", "block", "seed"]))
    rows = sweep.seeds[sweep.seeds["counted"] & sweep.seeds["point"].isin(points)]
    return rows.set_index(["point", "block", "seed"])[column].astype(float).dropna().sort_index()


def differences(sweep: Sweep, point: int, column: str, other: int | None = None) -> pd.Series:
    """Point minus another one, by default the baseline, for each (block, seed) that both have."""
    other = sweep.baseline if other is None else other
    here, there = (values(sweep, [p], column).droplevel("point") for p in (point, other))
    return (here - there).dropna().sort_index()


def mean_of(column: pd.Series) -> MeanInterval:
    """Over seeds; all other levels of the index (point, block) are groups, each of which counts once."""
    groups = column.groupby([name for name in column.index.names if name != "seed"])
    return mean_interval([group.to_numpy() for _, group in groups])


def measures(sweep: Sweep) -> dict[str, str]:
    """Title -> column, of what the runs noted and is no objective."""
    found = {}
    for title, columns in MEASURES:
        noted = [name for name in columns if name in sweep.seeds and sweep.seeds[name].notna().any()]
        if noted and not {noted[0], noted[0].removeprefix("after/")} & set(sweep.objectives):
            sampling = decoding(sweep.record) if noted[0].endswith("/pass_at_1") else ""
            found[f"{title}, {sampling}" if sampling else title] = noted[0]
    return found


def factors(sweep: Sweep) -> list[str]:
    """The treatments that take more than one value."""
    return [name for name in sweep.treatments if len(sweep.levels(name)) > 1]


def is_crossed(sweep: Sweep) -> bool:
    """A grid in which no parameter depends on another one."""
    return not sweep.is_search and all(set(setting) == set(sweep.treatments) for setting in sweep.settings)


def margins(sweep: Sweep, param: str, objective: str) -> list[Margin]:
    """The marginal means of one factor of a grid.

    Only over the settings of the others that every level has, so that levels differ in nothing else.
    """
    rows = values(sweep, range(len(sweep.settings)), objective).reset_index(name="value")
    rows["level"] = [key(sweep.settings[point][param]) for point in rows["point"]]
    others = [name for name in sweep.treatments if name != param]
    rows["rest"] = [str([key(sweep.settings[point][name]) for name in others]) for point in rows["point"]]
    table = rows.pivot_table("value", ["rest", "block", "seed"], "level", aggfunc="mean").dropna()
    table = table.groupby(["block", "seed"]).mean()
    base = None if sweep.baseline is None else key(sweep.settings[sweep.baseline][param])
    found = []
    for level in sweep.levels(param):
        column = table[key(level)] if key(level) in table else pd.Series(dtype=float, index=table.index[:0])
        change = mean_of((column - table[base]).dropna()) if base in table and key(level) != base else None
        found.append(Margin(param, level, mean_of(column), change, column))
    return found


def shared_points(sweep: Sweep, param: str) -> dict[Any, list[int]]:
    """Key of a level -> its points whose other settings every level has; where there are none, all of its points."""
    rests: dict[Any, dict[str, int]] = {key(level): {} for level in sweep.levels(param)}
    for point, setting in enumerate(sweep.settings):
        if param in setting:
            rest = str(sorted((name, key(value)) for name, value in setting.items() if name != param))
            rests[key(setting[param])][rest] = point
    shared = set.intersection(*(set(points) for points in rests.values()))
    return {
        level: [point for rest, point in points.items() if not shared or rest in shared]
        for level, points in rests.items()
    }


def is_complete(sweep: Sweep) -> bool:
    """Whether a crossed grid has all combinations of its levels."""
    return len(sweep.settings) == math.prod(len(sweep.levels(name)) for name in sweep.treatments)


def held_at(sweep: Sweep, param: str) -> str:
    """` at b=1`: in a grid with holes the settings of the others that every level of a parameter has; else nothing."""
    if is_complete(sweep) or not is_crossed(sweep):
        return ""
    others = [name for name in factors(sweep) if name != param]
    points = shared_points(sweep, param)[key(sweep.levels(param)[0])]
    names = short_names(sweep.treatments)
    rests = [describe({name: sweep.settings[point][name] for name in others}, names) for point in points]
    return f" at {' or '.join(dict.fromkeys(rests))}"


def matrix(sweep: Sweep, objective: str) -> pd.DataFrame:
    """Means of a two-factor grid: rows the levels of the first factor, columns of the second; NaN where none is."""
    first, second = factors(sweep)
    table = pd.DataFrame(index=range(len(sweep.levels(first))), columns=range(len(sweep.levels(second))), dtype=float)
    rows, columns = ([key(level) for level in sweep.levels(name)] for name in (first, second))
    for point, setting in enumerate(sweep.settings):
        mean = mean_of(values(sweep, [point], objective)).mean
        if mean is not None:
            table.iloc[rows.index(key(setting[first])), columns.index(key(setting[second]))] = mean
    return table


def ranked(sweep: Sweep, found: Sequence[Effect]) -> list[Effect]:
    """Those with a mean, the best first."""
    sign = -1 if sweep.maximize(found[0].objective) else 1
    return sorted((e for e in found if e.mean.mean is not None), key=lambda e: sign * e.mean.mean)


def shown(sweep: Sweep, found: Sequence[Effect], most: int = 10) -> list[Effect]:
    """Of a search with many points the best ones and the baseline; of a grid all. found: of one objective."""
    if not sweep.is_search or len(found) <= most + 1:
        return list(found)
    best = ranked(sweep, found)[:most]
    return best + [effect for effect in found if effect.point == sweep.baseline and effect not in best]
