"""curves.png: how a run went, in one picture."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from r1lab.analysis.picture import write_picture
from r1lab.analysis.run import Run, load_run

# Okabe and Ito's palette, which the colour-blind tell apart: jfly.uni-koeln.de/color
BLUE, ORANGE, GREEN, VERMILLION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"

# (title, {label: column}) of the small panels; a column that the run did not log is left out.
RL_PANELS = (
    ("format", {"training": "rollout/format", "validation": "validation/format"}),
    ("reward", {"mean": "reward/mean", "std in a group": "reward/std"}),
    ("divergence from the teacher, nats a token", {"on own samples": "loss/student", "on its samples": "loss/data"}),
    ("reverse KL to the teacher, nats a token", {"": "loss/reverse_kl"}),
    ("loss on the teacher's samples, nats a token", {"": "loss/sft"}),
    ("KL to the reference, nats a token", {"": "loss/kl"}),
    ("entropy, nats a token", {"": "loss/entropy"}),
    ("clip fraction", {"": "loss/clip_fraction"}),
    ("zero-variance groups", {"": "advantage/zero_std_groups"}),
)
SFT_PANELS = (
    ("accuracy on pairs", {"training": "loss/accuracy", "validation": "validation/accuracy"}),
    ("format", {"validation": "validation/format"}),
    ("length in tokens", {"completion": "validation/completion_length", "reasoning": "validation/reasoning_length"}),
    ("gradient norm", {"": "optimizer/gradient_norm"}),
)


def plot_curves(run_folder: str | Path, path: str | Path | None = None) -> Path:
    """Draw metrics.csv of a run and write the picture.

    Args:
        run_folder: of the run, finished or not. path: of the picture; None: curves.png in the folder.

    Raises:
        FileNotFoundError: if it is no run folder. ValueError: if no step is logged yet.
    """
    run = load_run(run_folder)
    if run.metrics.empty:
        raise ValueError(f"{run.folder} has no logged step to draw")
    path = Path(path) if path else run.folder / "curves.png"
    write_picture(curves_figure(run), path)
    return path


def curves_figure(run: Run) -> Figure:
    """Accuracy and completion length on twin axes in a large panel, the rest in small ones; the loss for a
    supervised run."""
    is_rl = "rollout/completion_length" in run.metrics
    panels = []
    for title, lines in RL_PANELS if is_rl else SFT_PANELS:
        if logged := {label: column for label, column in lines.items() if column in run.metrics}:
            panels.append((title, logged))
    rows = -(-len(panels) // 3)
    figure = Figure(figsize=(10, 4.2 + 2.0 * rows), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1 + rows, 3, height_ratios=[2.0, *[1.0] * rows])
    large = figure.add_subplot(grid[0, :])
    (draw_accuracy_and_length if is_rl else draw_loss_and_scores)(large, run.metrics)
    for number, (title, lines) in enumerate(panels):
        axes = figure.add_subplot(grid[1 + number // 3, number % 3])
        draw_panel(axes, run.metrics, title, lines)
        if number // 3 == rows - 1:
            axes.set_xlabel("training step", fontsize=8)
    figure.suptitle(title_of(run), fontsize=11)
    return figure


def draw_accuracy_and_length(axes: Axes, metrics: pd.DataFrame) -> None:
    lengths = axes.twinx()
    handles = []
    if "reward/accuracy" in metrics:
        handles += axes.plot(
            *_points(metrics, "reward/accuracy"), color=BLUE, lw=1.2, alpha=0.6, label="accuracy in training"
        )
    handles += _draw_validation(axes, metrics)
    for label, column, style in (
        ("completion length", "rollout/completion_length", "-"),
        ("reasoning length", "rollout/reasoning_length", "--"),
    ):
        if column in metrics:
            handles += lengths.plot(*_points(metrics, column), style, color=ORANGE, lw=1.5, label=f"{label} (right)")
    axes.set(xlabel="training step", ylabel="accuracy", ylim=(-0.02, 1.02))
    axes.yaxis.label.set_color(BLUE)
    lengths.set_ylabel("tokens", color=ORANGE)
    lengths.set_ylim(bottom=0)
    lengths.spines[["top"]].set_visible(False)
    _plain(axes)
    _legend_above(axes, handles)


def draw_loss_and_scores(axes: Axes, metrics: pd.DataFrame) -> None:
    scores = axes.twinx()
    handles = []
    if "loss/total" in metrics:
        handles += axes.plot(*_points(metrics, "loss/total"), color=GREY, lw=1.0, label="training loss")
    handles += _draw_validation(scores, metrics)
    axes.set(xlabel="training step", ylabel="loss (nats a token)")
    scores.set_ylabel("accuracy", color=BLUE)
    scores.set_ylim(-0.02, 1.02)
    scores.spines[["top"]].set_visible(False)
    _plain(axes)
    _legend_above(axes, handles)


def draw_panel(axes: Axes, metrics: pd.DataFrame, title: str, lines: dict[str, str]) -> None:
    for (label, column), color in zip(lines.items(), (GREEN, VERMILLION), strict=False):
        marker = "o" if column.startswith("validation/") else None
        axes.plot(*_points(metrics, column), color=color, lw=1.2, marker=marker, ms=3, label=label)
    axes.set_title(title, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if title in ("clip fraction", "zero-variance groups"):
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -0.01), max(high, 0.05))
    axes.tick_params(labelsize=8)
    if len(lines) > 1:
        axes.legend(fontsize=7, frameon=False)
    _plain(axes)


def title_of(run: Run) -> str:
    """`r1zero, seed 1, commit 0a1b2c`, and below it the held-out accuracy before and after where it was measured."""
    facts = {key: run.summary.get(key, run.config.get(key)) for key in ("experiment", "seed", "commit")}
    name = facts.pop("experiment") or run.config.get("name") or run.folder.name
    first = ", ".join([str(name), *(f"{key} {value}" for key, value in facts.items() if value is not None)])
    scores = [run.summary.get(when, {}).get("heldout", {}) for when in ("before", "after")]
    if not all("pass_at_1" in score for score in scores):
        return first
    return f"{first}\nheld-out pass@1 " + " → ".join(_with_interval(score) for score in scores)


def _with_interval(score: dict[str, Any]) -> str:
    text = f"{score['pass_at_1']:.2f}"
    if "pass_at_1_low" in score:
        text += f" [{score['pass_at_1_low']:.2f}, {score['pass_at_1_high']:.2f}]"
    return text


def _draw_validation(axes: Axes, metrics: pd.DataFrame) -> list[Any]:
    """Validation pass@1 with its interval; the handle for the legend."""
    name = "validation/pass_at_1"
    if name not in metrics:
        return []
    rows = metrics.dropna(subset=[name])
    spread = None
    if f"{name}_low" in metrics:
        spread = [(rows[name] - rows[f"{name}_low"]).clip(lower=0), (rows[f"{name}_high"] - rows[name]).clip(lower=0)]
    style = {"color": BLUE, "marker": "o", "ms": 4, "lw": 1.8, "capsize": 2, "elinewidth": 1}
    return [axes.errorbar(rows["step"], rows[name], spread, label="validation pass@1, 95 % interval", **style)]


def _points(metrics: pd.DataFrame, column: str) -> tuple[pd.Series, pd.Series]:
    rows = metrics.dropna(subset=[column])
    return rows["step"], rows[column]


def _plain(axes: Axes) -> None:
    axes.spines[["top"]].set_visible(False)
    axes.grid(alpha=0.25, lw=0.5)


def _legend_above(axes: Axes, handles: list[Any]) -> None:
    """Above the panel, where no curve runs through it."""
    axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, fontsize=8, frameon=False)
