"""How far the gold score follows a learned reward that alone is trained on: a figure, a CSV and what they say.

`python -m r1lab.analysis.reward_hacking runs/reward_hacking/*` reads finished or running runs of
`experiment=reward_hacking`. A reward model is a proxy: under optimisation its score goes on rising while the gold score
turns (Gao et al., arXiv 2210.10760); DeepSeek-R1 stopped its preference rewards after 400 steps for that reason (arXiv
2501.12948v2, Fig. 6).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from r1lab.analysis.curves import BLUE, GREY, ORANGE
from r1lab.analysis.number import counted
from r1lab.analysis.picture import write_picture
from r1lab.analysis.run import load_run
from r1lab.metric.mean_interval import mean_interval
from r1lab.run_folder import write_whole

# Column of the table: column of metrics.csv.
COLUMNS = {
    "learned": "reward/model",
    "gold": "reward/accuracy",
    "gold_validation": "validation/pass_at_1",
    "wellformed": "rollout/format",
    "completion_length": "rollout/completion_length",
    "kl": "loss/kl",
}
_SMOOTHED = 10  # steps


def curves_of(folders: Sequence[str | Path]) -> pd.DataFrame:
    """One row a run and step: run, seed, step, and what `COLUMNS` names; NaN where it was not measured.

    Raises ValueError for a run without a learned reward or a gold score.
    """
    tables = []
    for number, folder in enumerate(folders, 1):
        run = load_run(folder)
        missing = [name for name in ("reward/model", "reward/accuracy") if name not in run.metrics]
        if missing:
            raise ValueError(f"{folder} has no {' and no '.join(missing)}; give runs of experiment=reward_hacking")
        table = pd.DataFrame({"run": number, "seed": run.config.get("seed"), "step": run.metrics["step"]})
        for name, column in COLUMNS.items():
            table[name] = run.metrics.get(column)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def changes(curves: pd.DataFrame) -> dict[str, list[float]]:
    """For `learned` and `gold`: each run's mean over the last fifth of its steps minus that over the middle fifth.

    The two are fixed beforehand: a peak that is looked for in noise lies above what comes after it.
    """
    found: dict[str, list[float]] = {"learned": [], "gold": []}
    for _, run in curves.groupby("run"):
        fifth = max(1, len(run) // 5)
        middle = (len(run) - fifth) // 2
        for name, values in found.items():
            column = run[name].reset_index(drop=True)
            values.append(float(column[-fifth:].mean() - column[middle : middle + fifth].mean()))
    return found


def verdict(curves: pd.DataFrame) -> str:
    """Two lines: how both rewards moved from the middle to the last fifth of the steps, with 95 % t intervals."""
    lines = []
    for name, values in changes(curves).items():
        interval = mean_interval([values])
        bounds = f"[{interval.low:+.3f}, {interval.high:+.3f}]" if interval.low is not None else f"({interval.note})"
        lines.append(f"{name} reward, last fifth of the steps less the middle fifth: {interval.mean:+.3f} {bounds}")
    return "\n".join(lines) + "\n"


def figure_of(curves: pd.DataFrame) -> Figure:
    """The learned reward and the gold score over steps, means over runs as thick lines."""
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for place, name, color, label in (
        (axes.twinx(), "learned", ORANGE, "score of the reward model, which is trained on"),
        (axes, "gold", BLUE, "gold score, which is not"),
    ):
        smooth = curves.groupby("run")[name].transform(lambda column: column.rolling(_SMOOTHED, min_periods=1).mean())
        for run in curves["run"].unique():
            rows = curves["run"] == run
            place.plot(curves["step"][rows], smooth[rows], color=color, lw=0.8, alpha=0.4)
        mean = smooth.groupby(curves["step"]).mean()
        place.plot(mean.index, mean, color=color, lw=2.2)
        place.set_ylabel(label, color=color)
        place.spines[["top"]].set_visible(False)
    axes.set(xlabel="training step", ylim=(-0.02, 1.02))
    axes.grid(alpha=0.25, lw=0.5)
    runs = curves["run"].nunique()
    title = f"RL on a learned reward alone, {counted(runs, 'run')}, means over {_SMOOTHED} steps"
    axes.set_title(title, fontsize=10, color=GREY)
    return figure


def write_all(folders: Sequence[str | Path], output: Path) -> list[Path]:
    """Write reward_hacking.csv, .png and .md, each whole; returns their paths."""
    curves = curves_of(folders)
    output.mkdir(parents=True, exist_ok=True)
    table, picture, text = (output / f"reward_hacking.{ending}" for ending in ("csv", "png", "md"))
    write_whole(table, curves.to_csv(index=False))
    write_picture(figure_of(curves), picture)
    write_whole(text, verdict(curves))
    return [table, picture, text]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 with one line on stderr where there is nothing to draw."""
    parser = argparse.ArgumentParser(prog="python -m r1lab.analysis.reward_hacking", description=__doc__)
    parser.add_argument("runs", nargs="+", help="folders of runs of experiment=reward_hacking")
    parser.add_argument("--output", default=".", help="the folder to write to")
    options = parser.parse_args(arguments)
    try:
        paths = write_all(options.runs, Path(options.output))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(paths[-1].read_text() + "wrote " + ", ".join(str(path) for path in paths))
    return 0


if __name__ == "__main__":
    sys.exit(main())
