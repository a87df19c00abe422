"""Colours and markers of a sweep's figure: one colour a level, grey for the baseline, one marker a block."""

from collections.abc import Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from r1lab.analysis.curves import BLUE, GREEN, GREY, ORANGE, VERMILLION
from r1lab.analysis.setting import key
from r1lab.analysis.sweep import Sweep

# The two of Okabe and Ito's that curves.py has no use for.
PURPLE, SKY = "#CC79A7", "#56B4E9"
CYCLE = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def level_colors(sweep: Sweep, param: str) -> dict[tuple, str]:
    """Key of the level -> colour."""
    levels = [key(level) for level in sweep.levels(param)]
    base = None if sweep.baseline is None else sweep.settings[sweep.baseline].get(param, key)
    return _colors(levels, key(base) if sweep.baseline is not None and base is not key else None)


def point_colors(sweep: Sweep, points: Sequence[int]) -> dict[int, str]:
    """Where one parameter makes the points, that of its level; else few ones each their own, many ones one together."""
    names = [name for name in sweep.treatments if len(sweep.levels(name)) > 1]
    if len(names) == 1 and not sweep.is_search and all(names[0] in setting for setting in sweep.settings):
        colors = level_colors(sweep, names[0])
        return {point: colors[key(sweep.settings[point][names[0]])] for point in points}
    return {point: GREY if point == sweep.baseline else BLUE for point in points}


def _colors(items: list[Any], base: Any) -> dict[Any, str]:
    others = [item for item in items if item != base]
    if len(others) <= len(CYCLE):
        return dict(zip(others, CYCLE, strict=False)) | {item: GREY for item in items if item == base}
    # Lightness alone tells many levels apart, and stops short of the yellow that white swallows.
    ramp = [to_hex(colormaps["viridis"](0.9 * i / (len(others) - 1))) for i in range(len(others))]
    return dict(zip(others, ramp, strict=True)) | {item: GREY for item in items if item == base}


def block_markers(sweep: Sweep) -> dict[str, str]:
    """Name of the block -> marker."""
    blocks = list(sweep.seeds["block"].unique())
    return {block: MARKERS[i % len(MARKERS)] for i, block in enumerate(blocks)}


def plain(axes: Axes, title: str, grid: str = "both") -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, alpha=0.25, lw=0.5)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8.5)


def say(axes: Axes, title: str, reason: str) -> None:
    """A panel that cannot be drawn says why."""
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_axis_off()
    axes.text(0.5, 0.5, reason, ha="center", va="center", fontsize=9, color=GREY, wrap=True, transform=axes.transAxes)


def shorten(text: str, most: int = 38) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
