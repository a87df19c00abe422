"""Panels of learning curves: mean and 95 % interval over seeds, a colour a level."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

from r1lab.analysis.curves import BLUE, GREEN, GREY, ORANGE
from r1lab.analysis.decoding import title as heading
from r1lab.analysis.effects import Effect, held_at, mean_of, of_objective, ranked, shared_points
from r1lab.analysis.palette import level_colors, plain, say, shorten
from r1lab.analysis.setting import describe, key, label, short_names
from r1lab.analysis.sweep import Sweep

NO_CURVE = "no run noted a curve of its objective"


def draw_level_curves(axes: Axes, *, sweep: Sweep, param: str) -> None:
    """One curve a level of a parameter, over all that else varies and every level has."""
    metric, colors = curve_metric(sweep), level_colors(sweep, param)
    if metric is None:
        return say(axes, f"learning curves by {param}", NO_CURVE)
    points = shared_points(sweep, param)
    for level in sweep.levels(param):
        draw_band(axes, band(sweep, points[key(level)], metric), colors[key(level)], shorten(label(level), 20))
    _finish(axes, heading(sweep.record, metric), f"learning curves by {param}{held_at(sweep, param)}", param)


def draw_best_curves(axes: Axes, *, sweep: Sweep, found: Sequence[Effect]) -> None:
    """The three best points and the baseline before all runs, which are thin; one that was pruned ends early.

    Only the best and the baseline have their band: with few seeds four would hide each other.
    """
    metric = curve_metric(sweep)
    if metric is None:
        return say(axes, "learning curves", NO_CURVE)
    order = [effect.point for effect in ranked(sweep, of_objective(found, sweep.objectives[0]))]
    for _, run in sweep.curves.groupby(["trial", "seed"]):
        run = run.dropna(subset=[metric])
        axes.plot(run["step"], run[metric], color="#BBBBBB", lw=0.6, alpha=0.6, zorder=1)
    names = short_names(sweep.treatments)
    best = [point for point in order if point != sweep.baseline][:3]
    for point, color in [*zip(best, (BLUE, ORANGE, GREEN), strict=False), (sweep.baseline, GREY)]:
        if point is not None:
            table = band(sweep, [point], metric)
            if point in best[1:]:
                table[["low", "high"]] = float("nan")
            text = shorten(describe(sweep.settings[point], names) or "all", 90)
            draw_band(axes, table, color, text + " (baseline)" * (point == sweep.baseline))
    _finish(axes, heading(sweep.record, metric), "learning curves: the best points, and all runs", None)


def curve_metric(sweep: Sweep) -> str | None:
    """The first objective; where it is not measured along training, validation pass@1; None: neither is there."""
    names = [name for name in (sweep.objectives[0], "validation/pass_at_1") if name in sweep.curves]
    return next((name for name in names if sweep.curves[name].notna().any()), None)


def band(sweep: Sweep, points: Sequence[int], metric: str) -> pd.DataFrame:
    """step, mean, low, high of counted seeds; low and high are NaN where they are undefined, and within 0 and 1 where
    no score can be beyond.

    Only steps that every run of these points has: else a mean would move because a run is missing.
    """
    # An unfinished trial's seeds have no `counted`.
    rows = sweep.curves[sweep.curves["counted"].eq(True) & sweep.curves["point"].isin(points)].dropna(subset=[metric])
    runs = rows[["trial", "seed"]].drop_duplicates()
    found = []
    for step, at_step in rows.groupby("step"):
        if len(at_step) == len(runs):
            # Points with the same seed are one piece of evidence.
            mean = mean_of(at_step.astype({metric: float}).groupby(["block", "seed"])[metric].mean())
            found.append({"step": step, "mean": mean.mean, "low": mean.low, "high": mean.high})
    table = pd.DataFrame(found, columns=["step", "mean", "low", "high"]).astype(float)
    if "pass_at" in metric:
        table[["low", "high"]] = table[["low", "high"]].clip(0, 1)
    return table


def draw_band(axes: Axes, table: pd.DataFrame, color: str, text: str) -> None:
    axes.plot(table["step"], table["mean"], color=color, lw=1.8, marker="o", ms=3, label=text, zorder=3)
    axes.fill_between(table["step"], table["low"], table["high"], color=color, alpha=0.15, lw=0, zorder=2)


def _finish(axes: Axes, score: str, title: str, legend_title: str | None) -> None:
    axes.set_xlabel("training step", fontsize=9)
    axes.set_ylabel(score, fontsize=9)
    # Single runs are everywhere: their legend is under the panel.
    place = {"loc": "best"} if legend_title else {"loc": "upper left", "bbox_to_anchor": (0, -0.14)}
    axes.legend(fontsize=8, edgecolor="none", framealpha=0.85, title=legend_title, title_fontsize=8, **place)
    plain(axes, title)
