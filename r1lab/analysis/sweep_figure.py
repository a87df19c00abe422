"""figure.png: what a sweep shows, in the panels that suit it."""

from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from r1lab.analysis.curve_panels import draw_best_curves, draw_level_curves
from r1lab.analysis.decoding import GREEDY
from r1lab.analysis.effect_panels import draw_effects, draw_greedy, draw_margins, draw_matrix
from r1lab.analysis.effects import Effect, factors, is_crossed, margins, of_objective, shown
from r1lab.analysis.greedy import has_greedy, why_none
from r1lab.analysis.number import NONE
from r1lab.analysis.search_panels import draw_importance, draw_parallel, draw_pareto, importances
from r1lab.analysis.sweep import Sweep, SweepError

# A panel draws itself into the axes that it is called with.
Panel = partial[None]


def sweep_figure(sweep: Sweep, found: Sequence[Effect]) -> Figure:
    """Effects with every seed, the same in greedy, and learning curves; a heat map for two factors, importance and
    parallel coordinates for a search, the Pareto front for several objectives.

    Args:
        found: `r1lab.analysis.effects.effects` of the sweep.
    """
    rows = panel_rows(sweep, found)
    heights = [_height(sweep, found, row) for row in rows]
    figure = Figure(figsize=(12, 0.6 + sum(heights)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    grid = figure.add_gridspec(len(rows), 2, height_ratios=heights)
    for number, row in enumerate(rows):
        drawn = []
        for place, panel in enumerate(row):
            drawn.append(figure.add_subplot(grid[number, place] if len(row) == 2 else grid[number, :]))
            panel(drawn[-1])
        if number == 0 and has_greedy(sweep) and "pass_at" in sweep.objectives[0]:
            _share_range(drawn)
    if reason := why_none(sweep):
        figure.supxlabel(f"held-out greedy: {NONE}, {reason}", fontsize=9)
    figure.suptitle(f"{sweep.name}: {sweep.record.get('question') or ''}".rstrip(": "), fontsize=12)
    return figure


def _share_range(panels: Sequence[Axes]) -> None:
    """One range of accuracies, so that a difference is as wide in each panel."""
    limits = [limit for axes in panels for limit in axes.get_xlim()]
    for axes in panels:
        axes.set_xlim(min(limits), max(limits))


def panel_rows(sweep: Sweep, found: Sequence[Effect]) -> list[list[Panel]]:
    """One or two panels a row."""
    names, objective, greedy = factors(sweep), sweep.objectives[0], has_greedy(sweep)
    effects = [partial(draw_effects, sweep=sweep, found=found, objective=name) for name in sweep.objectives]
    curves = [partial(draw_level_curves, sweep=sweep, param=name) for name in names] or [
        partial(draw_best_curves, sweep=sweep, found=found)
    ]
    if sweep.is_search:
        rows = [[effects[0], *_importance(sweep)], [partial(draw_parallel, sweep=sweep)]]
        rows.append([partial(draw_best_curves, sweep=sweep, found=found)])
    elif not is_crossed(sweep):
        rows = [[effects[0], partial(draw_best_curves, sweep=sweep, found=found)]]
    elif len(names) == 2:
        scores = (objective, GREEDY) if greedy else (objective,)
        scales = [scores if "pass_at" in objective else (score,) for score in scores]
        matrices = [
            partial(draw_matrix, sweep=sweep, objective=score, scale=scale)
            for score, scale in zip(scores, scales, strict=True)
        ]
        rows = [[effects[0], *matrices], curves]
    elif len(names) > 2:
        strongest = max(names, key=lambda name: _reach(sweep, name, objective))
        rows = [
            [partial(draw_margins, sweep=sweep, objective=objective), curves[names.index(strongest)]],
        ]
    else:
        rows = [[effects[0], curves[0]]]
    if len(sweep.objectives) > 1:
        pareto = partial(draw_pareto, sweep=sweep, found=found)
        # The curves, which stand alone in a search, take the front beside them.
        rows = [*rows[:-1], [rows[-1][0], pareto]] if len(rows[-1]) == 1 else [*rows, [pareto]]
        rows += [effects[i : i + 2] for i in range(1, len(effects), 2)]
    return _with_greedy(sweep, found, rows) if greedy else rows


def _with_greedy(sweep: Sweep, found: Sequence[Effect], rows: list[list[Panel]]) -> list[list[Panel]]:
    """Greedy accuracy beside the first panel; what was there gets a row of its own."""
    (first, *others), *more = rows
    if first.func is draw_margins:
        greedy = partial(draw_margins, sweep=sweep, objective=GREEDY)
    else:
        greedy = partial(draw_greedy, sweep=sweep, found=found)
    return [[first, greedy], *([others] if others else []), *more]


def _importance(sweep: Sweep) -> list[Panel]:
    """Nothing where few trials were finished, as in a search that prunes well."""
    try:
        return [partial(draw_importance, sweep=sweep, found=importances(sweep))]
    except SweepError:
        return []


def _height(sweep: Sweep, found: Sequence[Effect], row: Sequence[Panel]) -> float:
    """Inches: a list of points or levels is as high as it needs, a front has its settings below it."""
    lines = 0
    if any(panel.func is draw_margins for panel in row):
        lines = sum(len(sweep.levels(name)) for name in factors(sweep))
    elif any(panel.func is draw_effects for panel in row):
        lines = len(shown(sweep, of_objective(found, sweep.objectives[0])))
    return max(3.6, 1.3 + 0.42 * lines) + 0.8 * any(panel.func is draw_pareto for panel in row)


def _reach(sweep: Sweep, param: str, objective: str) -> float:
    """How far the marginal means of a factor lie apart."""
    means = [margin.mean.mean for margin in margins(sweep, param, objective) if margin.mean.mean is not None]
    return max(means) - min(means) if means else 0.0
