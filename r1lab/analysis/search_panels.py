"""Panels of a sampler's search: which parameters mattered, where it looked, and the Pareto front."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from optuna.importance import FanovaImportanceEvaluator

from r1lab.analysis.curves import BLUE, GREY, VERMILLION
from r1lab.analysis.decoding import title as heading
from r1lab.analysis.effects import Effect, of_objective
from r1lab.analysis.number import number
from r1lab.analysis.palette import plain, shorten
from r1lab.analysis.setting import describe, key, label, short_names
from r1lab.analysis.sweep import Sweep, SweepError
from r1lab.metric.pareto import pareto_front

# A forest on fewer trials tells of noise.
FEWEST_TRIALS = 8


def importances(sweep: Sweep) -> dict[str, float]:
    """Parameter -> share of the variance of the first objective that it explains alone, by fANOVA (Hutter et al. 2014).

    Raises:
        SweepError: too few finished trials, no parameter that all of them have, no variance, scikit-learn missing.
    """
    finished = sum(sweep.points["state"] == "COMPLETE")
    if finished < FEWEST_TRIALS:
        raise SweepError(f"needs {FEWEST_TRIALS} finished trials, there are {finished}")
    try:
        found = optuna.importance.get_param_importances(
            sweep.study, evaluator=FanovaImportanceEvaluator(seed=0), target=lambda trial: trial.values[0]
        )
    except (ImportError, ValueError, RuntimeError) as error:
        raise SweepError(str(error).strip().splitlines()[0]) from error
    if not found:
        raise SweepError("no parameter is in all finished trials")
    return found


def draw_importance(axes: Axes, *, sweep: Sweep, found: Mapping[str, float]) -> None:
    title = f"importance for {heading(sweep.record, sweep.objectives[0])} (fANOVA)"
    names = short_names([*sweep.treatments, *sweep.blocks])
    axes.barh(
        range(len(found)), list(found.values()), color=[GREY if n in sweep.blocks else BLUE for n in found], height=0.6
    )
    for y, share in enumerate(found.values()):
        axes.text(share + 0.01, y, f"{share:.2f}", va="center", fontsize=8)
    axes.set_yticks(range(len(found)), [shorten(names[name]) for name in found])
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_xlim(0, max(found.values()) * 1.12 + 0.02)
    axes.set_xlabel("share of the explained variance", fontsize=9)
    left_out = [names[name] for name in names if name not in found]
    plain(axes, title + (f"\nnot in every trial: {', '.join(left_out)}" if left_out else ""), "x")


def draw_parallel(axes: Axes, *, sweep: Sweep) -> None:
    """One line a trial through its value of each parameter: a finished one coloured by its objective, the best on top,
    and one that was pruned grey, the darker the better its last value."""
    params, objective = [*sweep.treatments, *sweep.blocks], sweep.objectives[0]
    rows = sweep.points[sweep.points[objective].notna()].sort_values(objective, ascending=sweep.maximize(objective))
    pruned = _pruned(sweep, objective)
    scales = [_scale(sweep, name, [*rows[name], *pruned[name]]) for name in params]
    darkness = Normalize(pruned["last"].min(), pruned["last"].max()) if len(pruned) else None
    for _, row in pruned.iterrows():
        heights = [_height(row[name], scale) for name, scale in zip(params, scales, strict=True)]
        axes.plot(range(len(params)), heights, color=colormaps["Greys"](0.25 + 0.5 * darkness(row["last"])), lw=0.8)
    colors = Normalize(rows[objective].min(), rows[objective].max())
    cmap = colormaps["viridis"] if sweep.maximize(objective) else colormaps["viridis_r"]
    for order, (_, row) in enumerate(rows.iterrows()):
        heights = [_height(row[name], scale) for name, scale in zip(params, scales, strict=True)]
        style = {"color": cmap(colors(row[objective])), "lw": 1.2, "alpha": 0.8, "zorder": 2 + order / len(rows)}
        axes.plot(range(len(params)), heights, **style)
    for x, scale in enumerate(scales):
        axes.axvline(x, color="black", lw=0.8, zorder=4)
        for text, height in scale["ticks"]:
            _write_beside(axes, shorten(text, 16), x, height)
    more = "; pruned ones grey, the darker the better their last value" if len(pruned) else ""
    plain(axes, f"parallel coordinates: one line a finished trial{more}", "x")
    axes.set_xticks(range(len(params)), [shorten(name, 24) for name in params])
    axes.set_xlim(-0.1, len(params) - 1 + 0.35)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    bar = axes.figure.colorbar(ScalarMappable(colors, cmap), ax=axes, pad=0.01, shrink=0.9)
    bar.set_label(heading(sweep.record, objective), fontsize=9)
    bar.ax.tick_params(labelsize=8)


def _pruned(sweep: Sweep, objective: str) -> pd.DataFrame:
    """The pruned trials' rows with their `last` value, the worst first, signed so that higher is better."""
    sign = 1 if sweep.maximize(objective) else -1
    reported = {t.number: t.intermediate_values for t in sweep.study.get_trials(deepcopy=False)}
    rows = sweep.points[sweep.points["state"] == "PRUNED"]
    last = [sign * values[max(values)] if (values := reported[number]) else float("nan") for number in rows["trial"]]
    return rows.assign(last=last).dropna(subset=["last"]).sort_values("last")


def _write_beside(axes: Axes, text: str, x: float, y: float) -> None:
    box = {"fc": "white", "ec": "none", "alpha": 0.75, "pad": 0.5}
    axes.annotate(text, (x, y), (4, 0), "data", "offset points", fontsize=7.5, va="center", zorder=5, bbox=box)


# Where a line passes the axis of a parameter that its trial lacks.
UNSET = -0.16


def _scale(sweep: Sweep, name: str, column: list[Any]) -> dict[str, Any]:
    """How the values of a parameter become heights in 0..1, and (text, height) of its ticks."""
    there = [value for value in column if not _is_missing(value)]
    unset = [("unset", UNSET)] if len(there) < len(column) else []
    param = (sweep.record.get("params") or {}).get(name, {})
    numeric = all(isinstance(v, (int, float, np.number)) and not isinstance(v, bool) for v in there)
    if param.get("levels") or not numeric or not there:
        seen = {key(value): label(value) for value in there}
        levels = [level for level in dict.fromkeys([*map(key, param.get("levels") or []), *seen]) if level in seen]
        heights = {level: (i + 0.5) / len(levels) for i, level in enumerate(levels)}
        return {"heights": heights, "ticks": [(seen[level], heights[level]) for level in levels] + unset}
    is_log = bool(param.get("log"))
    low, high = (f(math.log(v) if is_log else v for v in there) for f in (min, max))
    shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    marks = [math.exp(low + share * (high - low)) if is_log else low + share * (high - low) for share in shares]
    if param.get("kind") == "int_interval":
        marks = sorted({round(mark) for mark in marks})
    scale = {"low": low, "high": high, "is_log": is_log}
    return scale | {"ticks": [(f"{mark:.3g}", _height(mark, scale)) for mark in marks] + unset}


def _height(value: Any, scale: dict[str, Any]) -> float:
    if _is_missing(value):
        return UNSET
    if "heights" in scale:
        return scale["heights"][key(value)]
    place = math.log(value) if scale["is_log"] else value
    return (place - scale["low"]) / (scale["high"] - scale["low"]) if scale["high"] > scale["low"] else 0.5


def _is_missing(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def draw_pareto(axes: Axes, *, sweep: Sweep, found: Sequence[Effect]) -> None:
    """The means of the first two objectives; the front lettered, with its settings below."""
    names = sweep.objectives[:2]
    by_objective = [{e.point: e.mean.mean for e in of_objective(found, name)} for name in names]
    points = [p for p in by_objective[0] if all(means[p] is not None for means in by_objective)]
    xy = np.array([[means[p] for means in by_objective] for p in points])
    front = pareto_front(xy, [sweep.maximize(name) for name in names])
    front.sort(key=lambda i: xy[i, 0])
    axes.scatter(*xy.T, s=22, color=GREY, alpha=0.5, lw=0)
    axes.plot(*xy[front].T, color=VERMILLION, lw=1.2, marker="o", ms=6)
    short = short_names(sweep.treatments)
    # On the side where better points would lie, which is empty.
    beside = (7 if sweep.maximize(names[0]) else -14, 5 if sweep.maximize(names[1]) else -12)
    for letter, i in zip("ABCDEFGH", front, strict=False):
        style = {"fontsize": 9, "color": VERMILLION, "weight": "bold"}
        axes.annotate(letter, xy[i], beside, textcoords="offset points", **style)
        text = f"{letter}: {describe(sweep.settings[points[i]], short) or 'all'}  ({', '.join(map(number, xy[i]))})"
        axes.plot([], [], ls="", label=shorten(text, 70))
    if sweep.baseline in points:
        base = xy[points.index(sweep.baseline)]
        axes.scatter(*base, s=60, marker="D", color=GREY, zorder=3, label="the baseline")
    axes.margins(0.1)
    words = ["higher" if sweep.maximize(name) else "lower" for name in names]
    axes.set_xlabel(f"{heading(sweep.record, names[0])} ({words[0]} is better)", fontsize=9)
    axes.set_ylabel(f"{heading(sweep.record, names[1])} ({words[1]} is better)", fontsize=9)
    axes.legend(fontsize=7.5, frameon=False, loc="upper left", bbox_to_anchor=(-0.02, -0.13), handlelength=1.2)
    plain(axes, "Pareto front of the means")
