"""The table and the figure of a pipeline: one row a stage, each metric with its interval."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from r1lab.analysis.curves import BLUE
from r1lab.analysis.number import NONE, interval
from r1lab.analysis.palette import plain
from r1lab.metric.mean_interval import MeanInterval, mean_interval

TITLES = {
    "pass_at_1": "pass@1",
    "pass_at_1_en": "pass@1, en",
    "pass_at_1_zh": "pass@1, zh",
    **{f"pass_at_{k}": f"pass@{k}" for k in (4, 16, 64)},
    **{f"cons_at_{k}": f"cons@{k}" for k in (4, 16, 64)},
    "greedy": "greedy",
    "format": "format",
    "language_consistency": "language consistency",
    "language_consistency_en": "consistency, en",
    "language_consistency_zh": "consistency, zh",
    "reasoning_length": "reasoning, tokens",
    "general_score": "general tasks",
    "forward_kl/teacher": "KL(T, S) on the teacher's text",
    "forward_kl/student": "KL(T, S) on its own text",
    "reverse_kl/teacher": "KL(S, T) on the teacher's text",
    "reverse_kl/student": "KL(S, T) on its own text",
    "calibration": "calibration error",
    "teraflop": "teraflop of the stage",
    "teacher_tokens": "teacher tokens",
}
# What is no share.
UNBOUNDED = {"reasoning_length", "teraflop", "teacher_tokens", *(name for name in TITLES if "_kl/" in name)}


def stage_frame(
    scores: Mapping[str, Sequence[Mapping[str, Mapping[str, float | None]]]], people: Mapping[str, bool]
) -> pd.DataFrame:
    """Columns stage, people, metric, value, low, high, seeds: one row a stage and metric.

    With one seed the interval is that over prompts; with several it is Student's over the seeds, around their mean.

    Args:
        scores: stage -> of each seed {metric: {value, low, high}}. people: stage -> its tag of provenance.
    """
    rows = []
    for stage, seeds in scores.items():
        for metric in (name for name in TITLES if any(name in seed for seed in seeds)):
            measured = [seed[metric] for seed in seeds if seed.get(metric, {}).get("value") is not None]
            result = _over(measured)
            rows.append(
                {"stage": stage, "people": people[stage], "metric": metric, "value": result.mean}
                | {"low": result.low, "high": result.high, "seeds": len(measured)}
            )
    return pd.DataFrame(rows, columns=["stage", "people", "metric", "value", "low", "high", "seeds"])


def contrasts(
    scores: Mapping[str, Sequence[Mapping[str, Mapping[str, float | None]]]], pairs: Sequence[Sequence[str]]
) -> str:
    """Markdown: of each pair of stages the first minus the second, by metric, with Student's interval over seeds.

    The seeds are paired: both stages of a seed started from the same. With one seed there is no interval.
    """
    lines = []
    for first, second in pairs:
        told = []
        for metric, title in TITLES.items():
            values = [
                a[metric]["value"] - b[metric]["value"]
                for a, b in zip(scores[first], scores[second], strict=True)
                if None not in (a.get(metric, {}).get("value"), b.get(metric, {}).get("value"))
            ]
            if values:
                told.append(f"{title} {interval(mean_interval([values]), sign=True)}")
        lines.append(f"{first} minus {second}: {'; '.join(told)}.\n")
    return "\n".join(lines)


def _over(measured: Sequence[Mapping[str, float]]) -> MeanInterval:
    if len(measured) == 1:
        return MeanInterval(*(measured[0][name] for name in ("value", "low", "high")), sd=None, n=1)
    return mean_interval([[each["value"] for each in measured]])


def markdown(frame: pd.DataFrame) -> str:
    """The table as Markdown: a stage a row, a metric a column, and what its intervals are over."""
    metrics = list(dict.fromkeys(frame["metric"]))
    lines = [["stage", *(TITLES[name] for name in metrics), "people's data"], ["---"] * (len(metrics) + 2)]
    for stage, part in frame.groupby("stage", sort=False):
        cells = {row.metric: _cell(row) for row in part.itertuples()}
        people = "yes" if bool(part["people"].iloc[0]) else "no"
        lines.append([str(stage), *(cells.get(name, NONE) for name in metrics), people])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + f"\n\n{_what_intervals(frame)}.\n"


def _what_intervals(frame: pd.DataFrame) -> str:
    seeds = int(frame["seeds"].max())
    return f"95 % intervals over {'held-out prompts, one seed' if seeds == 1 else f'{seeds} seeds'}"


def _cell(row) -> str:
    value, low, high = (None if pd.isna(x) else float(x) for x in (row.value, row.low, row.high))
    return interval(MeanInterval(value, low, high, sd=None, n=1))


def stage_figure(frame: pd.DataFrame, path: Path) -> None:
    """One panel a metric, the stages from left to right; a hollow marker where people's data entered."""
    metrics = list(dict.fromkeys(frame["metric"]))
    stages = list(dict.fromkeys(frame["stage"]))
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.5 * rows), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for number, metric in enumerate(metrics):
        axes = figure.add_subplot(rows, columns, number + 1)
        part = frame[frame["metric"] == metric].dropna(subset=["value"])
        for row in part.itertuples():
            spread = None if pd.isna(row.low) else [[max(row.value - row.low, 0)], [max(row.high - row.value, 0)]]
            face = "white" if row.people else BLUE
            axes.errorbar([stages.index(row.stage)], [row.value], spread, fmt="o", color=BLUE, mfc=face, capsize=3)
        axes.set_xticks(range(len(stages)), [stage.replace(" ", "\n", 1) for stage in stages])
        axes.set_xlim(-0.5, len(stages) - 0.5)
        axes.set_ylim(*((0, 1.1 * axes.get_ylim()[1]) if metric in UNBOUNDED else (-0.03, 1.05)))
        plain(axes, TITLES[metric], grid="y")
    hollow = "; hollow: data of people entered" if frame["people"].any() else ""
    figure.supxlabel(f"{_what_intervals(frame)}{hollow}", fontsize=9)
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    figure.savefig(temporary)
    os.replace(temporary, path)
