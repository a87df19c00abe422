"""bench_scaling.png: tokens a second and peak memory against the number of ranks, and losses against steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from r1lab.analysis.palette import CYCLE, MARKERS, plain
from r1lab.analysis.picture import write_picture

WHAT = ["model", "task", "strategy", "reference"]
# Of runs to be compared.
SAME = ["commit", "device", "torch", "transformers", "lightning", "precision", "steps", "given"]


def known_rows(path: Path) -> pd.DataFrame:
    """Of bench_scaling.csv; a commit may be of digits alone."""
    rows = pd.read_csv(path, dtype=dict.fromkeys(("commit", "given", "reference"), str))
    return rows.fillna({"given": "", "reference": ""})


def last_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each task's rows those like its last one's run, be it in several calls, the newest of each configuration."""
    newest = rows.groupby("task")[SAME].transform("last")
    rows = rows[(rows[SAME].astype(str) == newest.astype(str)).all(axis=1)]
    return rows.drop_duplicates([*WHAT, "gpus"], keep="last")


def plot(rows: pd.DataFrame, path: Path) -> None:
    """A column a task, of `last_rows`."""
    rows = rows.assign(reference=rows["reference"].astype(object).fillna(""))
    tasks = list(dict.fromkeys(rows["task"]))
    figure = Figure(figsize=(5.2 * len(tasks), 9.6), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, len(tasks), squeeze=False)
    kinds = sorted({label(row) for row in rows.to_dict("records")})
    for column, task in enumerate(tasks):
        own = rows[rows["task"] == task]
        groups = {kind: own[[label(r) == kind for r in own.to_dict("records")]].sort_values("gpus") for kind in kinds}
        groups = {kind: group for kind, group in groups.items() if len(group)}
        styles = {k: {"color": CYCLE[kinds.index(k) % len(CYCLE)], "marker": _marker(kinds.index(k))} for k in groups}
        speed(axes[0][column], task, groups, styles)
        memory(axes[1][column], groups, styles)
        losses(axes[2][column], groups, styles)
    abouts = rows.drop_duplicates("task", keep="last").to_dict("records")
    told = [f"{row['task'].upper()}: {row['device']}, {row['precision']}, commit {row['commit']}" for row in abouts]
    figure.suptitle("\n".join(told), fontsize=9, x=0.01, ha="left")
    write_picture(figure, path)


def label(row: dict[str, Any]) -> str:
    """Of a line: what is the same whatever the number of ranks, but for the task."""
    reference = f", reference {row['reference']}" if row["reference"] else ""
    return f"{row['model']} {row['strategy']}{reference}"


def speed(axes: Axes, task: str, groups: dict[str, pd.DataFrame], styles: dict[str, dict]) -> None:
    """With the ideal line of each that has a run on one rank."""
    for kind, group in groups.items():
        axes.plot(group["gpus"], group["tokens_per_second"], label=kind, **styles[kind])
        alone = group[group["gpus"] == 1]["tokens_per_second"]
        if len(alone) and len(group) > 1:
            ideal = [alone.iloc[0] * n for n in group["gpus"]]
            axes.plot(group["gpus"], ideal, color=styles[kind]["color"], linestyle=":", lw=1)
    plain(axes, f"{task.upper()}: tokens a second; dotted: ideal")
    _ranks(axes, groups.values())
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.legend(fontsize=8, frameon=False)


def memory(axes: Axes, groups: dict[str, pd.DataFrame], styles: dict[str, dict]) -> None:
    most = 0.0
    for kind, group in groups.items():
        axes.plot(group["gpus"], group["planned_mib"] / 1024, color=styles[kind]["color"], linestyle="--", lw=1)
        known = group.assign(found=pd.to_numeric(group["measured_mib"], errors="coerce")).dropna(subset="found")
        axes.plot(known["gpus"], known["found"] / 1024, **styles[kind])
        most = max(most, group["planned_mib"].max() / 1024, *known["found"] / 1024)
    plain(axes, "peak memory of a rank, GiB; dashed: planned")
    _ranks(axes, groups.values())
    axes.set_ylim(0, 1.08 * most)


def losses(axes: Axes, groups: dict[str, pd.DataFrame], styles: dict[str, dict]) -> None:
    """One rank's dotted, the others the wider the more there are; batches grow with them, so that lines differ. Lines
    of one number of ranks lie on each other, and have their marks at other steps."""
    for number, (kind, group) in enumerate(groups.items()):
        for row in group.to_dict("records"):
            values = [float(value) for value in str(row["losses"]).split()]
            width = 0.8 + 0.5 * row["gpus"] ** 0.5
            style = styles[kind] | {"lw": width, "ls": ":" if row["gpus"] == 1 else "-", "alpha": 0.7}
            marks = slice(number, None, len(groups))
            axes.plot(range(1, len(values) + 1), values, **style, markersize=5, markevery=marks)
    plain(axes, "loss; dotted: one rank, whose batches are others")
    most = max((abs(y) for line in axes.lines for y in line.get_ydata()), default=0)
    if 0 < most < 1e-3:
        axes.yaxis.set_major_formatter("{x:.1e}")
    axes.set_xlabel("step")


def _ranks(axes: Axes, groups: Sequence[pd.DataFrame]) -> None:
    ticks = sorted({n for group in groups for n in group["gpus"]})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.minorticks_off()
    axes.set_xlabel("ranks")


def _marker(number: int) -> str:
    return MARKERS[number % len(MARKERS)]
