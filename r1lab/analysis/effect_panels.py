"""Panels of effects: every seed and the mean of each point, main effects, and the heat map of two factors."""

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from r1lab.analysis.ceiling import ceilings, saturated_blocks, saturation
from r1lab.analysis.curves import BLUE, GREY, VERMILLION
from r1lab.analysis.decoding import GREEDY, decoding, title
from r1lab.analysis.effects import Effect, Margin, factors, held_at, margins, matrix, of_objective, shown, values
from r1lab.analysis.greedy import greedy_effect
from r1lab.analysis.number import change, interval, number, p_value
from r1lab.analysis.palette import block_markers, plain, point_colors, shorten
from r1lab.analysis.setting import describe, key, label, short_names
from r1lab.analysis.sweep import Sweep
from r1lab.metric.mean_interval import MeanInterval


def draw_effects(axes: Axes, *, sweep: Sweep, found: Sequence[Effect], objective: str) -> None:
    """One line a point: a dot a seed, marked by its block, the mean with its interval above; the baseline dashed."""
    rows = shown(sweep, of_objective(found, objective))
    notes = [_note(sweep, effect) for effect in rows]
    _draw_points(axes, sweep, rows, notes)
    axes.set_xlabel(title(sweep.record, objective), fontsize=9)
    plain(axes, _title(sweep, rows, found), "x")


def draw_greedy(axes: Axes, *, sweep: Sweep, found: Sequence[Effect]) -> None:
    """The same points in held-out greedy accuracy, and dotted the highest that was measured on their bases."""
    rows = [greedy_effect(sweep, effect.point) for effect in shown(sweep, of_objective(found, sweep.objectives[0]))]
    notes = [_greedy_note(sweep, effect) for effect in rows]
    _draw_points(axes, sweep, rows, notes)
    known, text = ceilings(sweep).values(), title(sweep.record, GREEDY)
    if known and len(known) == sweep.seeds["block"].nunique():
        ceiling = sum(known) / len(known)
        axes.axvline(ceiling, color=VERMILLION, lw=1, ls=":", zorder=0)
        text += f" (dotted: highest measured, {number(ceiling)})"
    # The panel to the left has the names.
    axes.set_yticklabels([])
    axes.set_ylabel("")
    axes.set_xlabel(text, fontsize=9)
    plain(axes, "greedy: mean, 95 % interval, every seed", "x")


def _draw_points(axes: Axes, sweep: Sweep, rows: Sequence[Effect], notes: Sequence[str]) -> None:
    colors, markers = point_colors(sweep, [effect.point for effect in rows]), block_markers(sweep)
    for y, effect in enumerate(rows):
        _draw_mean(axes, y, effect.mean, colors[effect.point])
        _draw_dots(axes, y, values(sweep, [effect.point], effect.objective), colors[effect.point], markers)
        if effect.point == sweep.baseline and effect.mean.mean is not None:
            axes.axvline(effect.mean.mean, color=GREY, lw=1, ls="--", zorder=0)
    names = short_names(sweep.treatments)
    single = len(sweep.treatments) == 1
    texts = [_point_label(sweep, effect.point, names, single) for effect in rows]
    _label_rows(axes, range(len(rows)), texts, notes if sweep.baseline is not None else None)
    axes.set_ylabel(sweep.treatments[0] if single else "", fontsize=9)
    _block_legend(axes, sweep, markers)


def _title(sweep: Sweep, rows: Sequence[Effect], found: Sequence[Effect]) -> str:
    best = len(of_objective(found, rows[0].objective)) > len(rows)
    sampled = decoding(sweep.record) if "pass_at" in rows[0].objective else ""
    prefix = ("the best points: " if best else "") + (f"{sampled}: " if sampled else "")
    return f"{prefix}mean, 95 % interval, every seed"


def _point_label(sweep: Sweep, point: int, names: dict[str, str], single: bool) -> str:
    setting = sweep.settings[point]
    text = label(next(iter(setting.values()))) if single and setting else describe(setting, names) or "all"
    return "\n".join(textwrap.wrap(text, 34, max_lines=2, placeholder=" …"))


def _note(sweep: Sweep, effect: Effect) -> str:
    if effect.point == sweep.baseline:
        return "baseline"
    if effect.mean.mean is None:
        return "no finished seed"
    if effect.comparison is None or not effect.comparison.difference.n:
        return "not paired"
    p = "" if effect.p is None else f"\np {p_value(effect.p)}"
    return change(effect.comparison.difference) + p


def _greedy_note(sweep: Sweep, effect: Effect) -> str:
    note = _note(sweep, effect)
    word, _, some = saturation(sweep, effect.point).partition(" on ")
    share = f" on {len(saturated_blocks(sweep, effect.point))} of {sweep.seeds['block'].nunique()}" if some else ""
    return f"{note}\n{word}{share}" if word else note


def _draw_mean(axes: Axes, y: float, mean: MeanInterval, color: str) -> None:
    if mean.mean is None:
        return
    if mean.low is not None:
        axes.plot([mean.low, mean.high], [y, y], color=color, lw=2.2, solid_capstyle="butt")
    axes.scatter([mean.mean], [y], s=46, color=color, zorder=3, edgecolor="white", lw=0.8)


def _draw_dots(axes: Axes, y: float, column: pd.Series, color: str, markers: dict[str, str]) -> None:
    """A dot a value below the mean, blocks under each other."""
    for place, (block, marker) in enumerate(markers.items()):
        dots = column[column.index.get_level_values("block") == block].round(9)
        low = y + 0.16 + 0.22 * place / max(1, len(markers) - 1)
        # Equal ones lie under each other.
        axes.scatter(
            dots,
            low + 0.07 * dots.groupby(dots.to_numpy()).cumcount(),
            s=16,
            color=color,
            alpha=0.6,
            lw=0,
            marker=marker,
        )


def _label_rows(axes: Axes, heights: Sequence[float], texts: Sequence[str], notes: Sequence[str] | None) -> None:
    """Names on the left, differences on the right; the first row on top."""
    axes.set_yticks(heights, texts)
    axes.set_ylim(heights[-1] + 0.6, -0.6)
    if notes is not None:
        right = axes.twinx()
        right.set_ylim(axes.get_ylim())
        right.set_yticks(heights, notes, fontsize=7.5)
        right.tick_params(length=0)
        right.spines[["top", "right", "left"]].set_visible(False)


def _block_legend(axes: Axes, sweep: Sweep, markers: dict[str, str]) -> None:
    if len(markers) < 2:
        return
    handles = [
        Line2D([], [], color=GREY, marker=marker, ls="", ms=5, label=shorten(block.rstrip("/").rsplit("/", 1)[-1], 24))
        for block, marker in markers.items()
    ]
    title = " x ".join(sweep.blocks)
    # Under the panel, where there is no dot.
    axes.legend(
        handles=handles,
        title=title,
        title_fontsize=8,
        fontsize=8,
        ncols=min(4, len(handles)),
        frameon=False,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.14 * 3.6 / max(3.6, axes.get_ylim()[0] * 0.42)),
    )


def draw_margins(axes: Axes, *, sweep: Sweep, objective: str) -> None:
    """The marginal mean of each level of each factor, factors apart."""
    y, heights, texts, notes, markers = 0.0, [], [], [], block_markers(sweep)
    for name in factors(sweep):
        for margin in margins(sweep, name, objective):
            is_base = sweep.baseline is not None and key(sweep.settings[sweep.baseline][name]) == key(margin.level)
            _draw_mean(axes, y, margin.mean, GREY if is_base else BLUE)
            _draw_dots(axes, y, margin.by_seed, GREY if is_base else BLUE, markers)
            heights.append(y)
            texts.append(shorten(describe({name: margin.level}, short_names(sweep.treatments)) + held_at(sweep, name)))
            notes.append("baseline" if is_base else _margin_note(margin))
            y += 1
        y += 0.5
    _label_rows(axes, heights, texts, notes if sweep.baseline is not None else None)
    axes.set_xlabel(title(sweep.record, objective), fontsize=9)
    plain(axes, "main effects: marginal means, 95 % intervals, every seed", "x")
    _block_legend(axes, sweep, markers)


def _margin_note(margin: Margin) -> str:
    return interval(margin.difference, sign=True, gap="\n") if margin.difference is not None else ""


def draw_matrix(axes: Axes, *, sweep: Sweep, objective: str, scale: Sequence[str]) -> None:
    """The means of a two-factor grid; the baseline framed.

    Args:
        scale: columns whose means the colours span, so that panels beside each other can be compared.
    """
    first, second = factors(sweep)
    table = matrix(sweep, objective).to_numpy()
    spanned = [matrix(sweep, column).to_numpy() for column in scale]
    low, high = np.nanmin(spanned), np.nanmax(spanned)
    image = axes.imshow(np.ma.masked_invalid(table), cmap="cividis", aspect="auto", vmin=low, vmax=high)
    for (i, j), value in np.ndenumerate(table):
        is_dark = np.isfinite(value) and value < (low + high) / 2
        text = number(value)
        axes.text(j, i, text, ha="center", va="center", fontsize=9, color="white" if is_dark else "black")
    if sweep.baseline is not None:
        setting = sweep.settings[sweep.baseline]
        i, j = ([key(v) for v in sweep.levels(name)].index(key(setting[name])) for name in (first, second))
        axes.add_patch(Rectangle((j - 0.48, i - 0.47), 0.96, 0.94, fill=False, ec=VERMILLION, lw=2.5))
    axes.set_xticks(range(table.shape[1]), [shorten(label(v), 18) for v in sweep.levels(second)])
    axes.set_yticks(range(table.shape[0]), [shorten(label(v), 18) for v in sweep.levels(first)])
    axes.set_xlabel(second, fontsize=9)
    axes.set_ylabel(first, fontsize=9)
    axes.figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02).ax.tick_params(labelsize=8)
    framed = "" if sweep.baseline is None else ", the baseline framed"
    plain(axes, f"mean {title(sweep.record, objective)}{framed}")
    axes.grid(False)
    axes.spines[:].set_visible(False)
