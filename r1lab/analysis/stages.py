"""The table and the figure of a pipeline: one row a stage, each metric with its interval."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from r1lab.analysis.curves import BLUE
from r1lab.analysis.number import NONE, interval
from r1lab.analysis.palette import GREY, plain
from r1lab.analysis.picture import write_picture
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
SAMPLED = (
    "The verdicts are on pass@1 of samples, which also rises as a policy loses entropy; where greedy has another sign, "
    "or is at its ceiling in both, they do not show that one policy solves more."
)
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
        found = {title: paired(scores, first, second, metric) for metric, title in TITLES.items()}
        told = [f"{title} {interval(mean_interval([values]), sign=True)}" for title, values in found.items() if values]
        lines.append(f"{first} minus {second}: {'; '.join(told)}.\n")
    return "\n".join(lines)


def paired(
    scores: Mapping[str, Sequence[Mapping[str, Mapping[str, float | None]]]], first: str, second: str, metric: str
) -> list[float]:
    """Of each seed that has both: the first stage's metric minus the second's."""
    both = (
        (a.get(metric, {}).get("value"), b.get(metric, {}).get("value"))
        for a, b in zip(scores[first], scores[second], strict=True)
    )
    return [a - b for a, b in both if None not in (a, b)]


def verdicts(
    scores: Mapping[str, Sequence[Mapping[str, Mapping[str, float | None]]]], pairs: Sequence[Sequence[str]]
) -> str:
    """Markdown, a line a pair: which of the two has the higher pass@1, where the interval over seeds says so.

    An interval that holds 0 settles nothing. Unadjusted for the number of pairs. Empty where no pair was measured.
    The difference in greedy accuracy stands beside it: sampled pass@1 also rises as a policy loses entropy.
    """
    lines = []
    for first, second in pairs:
        values = paired(scores, first, second, "pass_at_1")
        if not values:
            continue
        result = mean_interval([values])
        if result.low is None:
            word = "no verdict, " + (result.note or "no interval")
        else:
            word = "better" if result.low > 0 else "worse" if result.high < 0 else "not told apart"
        greedy = paired(scores, first, second, "greedy")
        beside = f"; greedy {interval(mean_interval([greedy]), sign=True)}" if greedy else ""
        lines.append(f"* {first} against {second}: **{word}**, pass@1 {interval(result, sign=True)}{beside}")
    notes = [SAMPLED] if any("; greedy " in line for line in lines) else []
    if len(lines) > 1:
        notes.append(f"Each interval is its pair's own, unadjusted for there being {len(lines)}.")
    lines += [f"\n{note}" for note in notes]
    return "\n".join(lines) + "\n" if lines else ""


def seeds_frame(
    scores: Mapping[str, Sequence[Mapping[str, Mapping[str, float | None]]]], seeds: Sequence[int]
) -> pd.DataFrame:
    """A row a stage, seed and metric: what means and paired intervals are made of."""
    return pd.DataFrame(
        {"stage": stage, "seed": seed, "metric": metric, "value": found["value"]}
        for stage, of_stage in scores.items()
        for seed, own in zip(seeds, of_stage, strict=True)
        for metric, found in own.items()
        if found["value"] is not None
    )


def contrast_figure(
    scores: Mapping[str, Sequence[Mapping[str, Mapping[str, float | None]]]], pairs: Sequence[Sequence[str]], path: Path
) -> None:
    """The differences in pass@1, a row a pair: each seed, their mean and its interval, beside no difference."""
    told = [(f"{a} − {b}", values) for a, b in pairs if (values := paired(scores, a, b, "pass_at_1"))]
    figure = Figure(figsize=(7.5, 0.9 + 0.36 * max(len(told), 1)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.axvline(0, color=GREY, lw=1)
    for row, (_, values) in enumerate(told):
        result = mean_interval([values])
        spread = None if result.low is None else [[result.mean - result.low], [result.high - result.mean]]
        axes.errorbar([result.mean], [row], xerr=spread, fmt="o", color=BLUE, capsize=3)
        axes.plot(values, [row + 0.22] * len(values), "|", color=GREY, ms=6)
    axes.set_yticks(range(len(told)), [name for name, _ in told])
    axes.set_ylim(len(told) - 0.4, -0.6)
    plain(axes, "difference in pass@1 (ticks: seeds; bars: 95 % over them)", grid="x")
    write_picture(figure, path)


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
    """One panel a metric, the stages from top to bottom; a hollow marker where people's data entered."""
    metrics = list(dict.fromkeys(frame["metric"]))
    stages = list(dict.fromkeys(frame["stage"]))
    columns = min(4, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = Figure(figsize=(1.6 + 2.5 * columns, rows * (0.8 + 0.24 * len(stages))), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for number, metric in enumerate(metrics):
        axes = figure.add_subplot(rows, columns, number + 1)
        part = frame[frame["metric"] == metric].dropna(subset=["value"])
        for row in part.itertuples():
            spread = None if pd.isna(row.low) else [[max(row.value - row.low, 0)], [max(row.high - row.value, 0)]]
            face = "white" if row.people else BLUE
            axes.errorbar([row.value], [stages.index(row.stage)], xerr=spread, fmt="o", color=BLUE, mfc=face, capsize=3)
        axes.set_yticks(range(len(stages)), stages if number % columns == 0 else [""] * len(stages))
        axes.set_ylim(len(stages) - 0.5, -0.5)
        axes.set_xlim(*((0, 1.1 * axes.get_xlim()[1]) if metric in UNBOUNDED else (-0.03, 1.05)))
        plain(axes, TITLES[metric], grid="both")
    hollow = "; hollow: data of people entered" if frame["people"].any() else ""
    figure.supxlabel(f"{_what_intervals(frame)}{hollow}", fontsize=9)
    write_picture(figure, path)
