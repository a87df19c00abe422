"""The table of a sweep, for the terminal and as Markdown; and trials.csv."""

from collections.abc import Sequence

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from r1lab.analysis.ceiling import definition, saturated_blocks
from r1lab.analysis.decoding import GREEDY, title
from r1lab.analysis.effects import (
    Effect,
    differences,
    factors,
    held_at,
    is_crossed,
    margins,
    matrix,
    mean_of,
    measures,
    of_objective,
    shown,
    values,
)
from r1lab.analysis.greedy import greedy_change, greedy_effect, has_greedy, why_none
from r1lab.analysis.number import NONE, interval, number, p_value
from r1lab.analysis.setting import label, short_names
from r1lab.analysis.sweep import Sweep
from r1lab.metric.mean_interval import mean_interval


def main_table(sweep: Sweep, found: Sequence[Effect]) -> pd.DataFrame:
    """One row a point, all cells text, a number above its interval; the first objective decides the order."""
    first = shown(sweep, of_objective(found, sweep.objectives[0]))
    by_place = {(effect.point, effect.objective): effect for effect in found}
    return pd.DataFrame([_row(sweep, effect.point, by_place) for effect in first]).fillna(NONE)


def _row(sweep: Sweep, point: int, by_place: dict[tuple[int, str], Effect]) -> dict[str, str]:
    setting = sweep.settings[point]
    row = {name: label(setting[name]) if name in setting else NONE for name in sweep.treatments}
    for name in sweep.objectives:
        effect = by_place[point, name]
        heading = title(sweep.record, name)
        row |= {heading: interval(effect.mean, gap="\n"), "n": str(effect.mean.n)}
        if sweep.baseline is not None:
            change = "difference" if len(sweep.objectives) == 1 else f"difference in {heading}"
            row[change] = _difference(sweep, effect)
            if not sweep.is_search:
                row[f"p{change.removeprefix('difference')}"] = p_value(effect.p)
    row |= _greedy(sweep, point)
    for measure, column in measures(sweep).items():
        row[measure] = number(mean_of(values(sweep, [point], column)).mean)
    return row | {"trials": states(sweep, point)}


def _greedy(sweep: Sweep, point: int) -> dict[str, str]:
    """Beside the objectives, whose sampled accuracy also rises as the policy loses entropy."""
    heading = title(sweep.record, GREEDY)
    row = {heading: interval(greedy_effect(sweep, point).mean, gap="\n")}
    if sweep.baseline is not None and has_greedy(sweep):
        change = "baseline" if point == sweep.baseline else greedy_change(sweep, point, gap="\n")
        row["difference in greedy"] = change or NONE
    return row


def _difference(sweep: Sweep, effect: Effect) -> str:
    if effect.point == sweep.baseline:
        return "baseline"
    return interval(effect.comparison.difference, sign=True, gap="\n")


def states(sweep: Sweep, point: int) -> str:
    """`3`; `1 of 3 pruned` where not all finished."""
    states = sweep.points.loc[sweep.points["point"] == point, "state"]
    others = states[states != "COMPLETE"].str.lower().replace("fail", "failed").value_counts().sort_index()
    return ", ".join(f"{count} of {len(states)} {state}" for state, count in others.items()) or str(len(states))


def notes(sweep: Sweep, found: Sequence[Effect]) -> list[str]:
    """What the table's numbers mean, and what is undefined in it and why."""
    over = "seeds"
    if sweep.blocks:
        over += f", inside each {' and '.join(sweep.blocks)}: for these alone, whose spread is not in it"
    lines = [f"Brackets: 95 % t interval of the mean over {over}; unadjusted. n: runs that count."]
    tested = [effect for effect in found if effect.comparison]
    if sweep.baseline_note:
        lines.append(f"No differences: {sweep.baseline_note}.")
    elif tested:
        pairs = "seed" if not sweep.blocks else f"({', '.join(sweep.blocks)}, seed)"
        family = sum(effect.p is not None for effect in tested)
        test = f"p: two-sided paired t test, after Holm over {family} comparisons"
        untested = "untested, since the same seeds chose the points"
        lines.append(f"Differences: paired by {pairs}; {untested if sweep.is_search else test}.")
    lines += [] if sweep.is_search else _sign_flips(tested)
    if reason := why_none(sweep):
        lines.append(f"Held-out greedy: {NONE}, {reason}.")
    elif told := definition(sweep):
        lines.append(told)
    undefined: dict[str, list[str]] = {}
    for effect in found:
        if effect.mean.note:
            undefined.setdefault(f"No interval, {effect.mean.note}", []).append(_place(sweep, effect))
        if effect.comparison and effect.comparison.difference.note:
            note = effect.comparison.difference.note.replace("value", "pair")
            test = "; p by the sign-flip test" if effect.comparison.test == "sign flip" else ""
            undefined.setdefault(f"No interval of the difference, {note}{test}", []).append(_place(sweep, effect))
    return lines + [f"{reason}: {_listed(places)}." for reason, places in undefined.items()]


def _sign_flips(tested: Sequence[Effect]) -> list[str]:
    exact = [effect for effect in tested if effect.comparison.sign_flip_p is not None]
    if not exact:
        return []
    fewest, most = (pick(effect.comparison.difference.n for effect in exact) for pick in (min, max))
    pairs = str(fewest) if fewest == most else f"{fewest} to {most}"
    smallest = min(effect.comparison.sign_flip_p for effect in exact)
    return [
        f"Exact sign-flip test beside it, unadjusted: smallest p {p_value(smallest)}; "
        f"with {pairs} pairs it cannot fall below {p_value(2 / 2**most)}."
    ]


def _place(sweep: Sweep, effect: Effect) -> str:
    setting = sweep.settings[effect.point]
    return " ".join(label(setting[name]) for name in sweep.treatments if name in setting) or "the one point"


def _listed(places: list[str]) -> str:
    places = list(dict.fromkeys(places))
    return ", ".join(places[:6]) + (f" and {len(places) - 6} more" if len(places) > 6 else "")


def block_table(sweep: Sweep, objective: str) -> pd.DataFrame:
    """Each point's difference to the baseline on each level of the blocks: is the effect the same everywhere? And with
    those as the units: what would be said of others than these."""
    rows, unit = [], " x ".join(sweep.blocks)
    for point in range(len(sweep.settings)):
        if point != sweep.baseline:
            change = differences(sweep, point, objective)
            row = {name: label(sweep.settings[point].get(name)) for name in sweep.treatments}
            saturated = saturated_blocks(sweep, point) if objective == GREEDY else []
            for block, pairs in change.groupby("block"):
                row[block] = interval(mean_interval([pairs]), sign=True) + ", saturated" * (block in saturated)
            rows.append(row | {f"over {unit}": interval(mean_interval([change.groupby("block").mean()]), sign=True)})
    return pd.DataFrame(rows).fillna(NONE)


def factor_tables(sweep: Sweep) -> list[tuple[str, pd.DataFrame]]:
    """Of a grid with several factors: the main effects, and for two factors the matrix of the means; of one with blocks
    the differences on each."""
    names, tables, greedy = factors(sweep), [], [GREEDY] if has_greedy(sweep) else []
    if sweep.blocks and sweep.baseline is not None and not sweep.is_search:
        for column in (sweep.objectives[0], *greedy):
            heading = f"Differences in {title(sweep.record, column)} on each {' and '.join(sweep.blocks)}"
            tables.append((heading, block_table(sweep, column)))
    if not is_crossed(sweep) or len(names) < 2:
        return tables
    for objective in (*sweep.objectives, *greedy):
        rows = [
            {
                "parameter": margin.param + held_at(sweep, margin.param),
                "level": label(margin.level),
                "mean": interval(margin.mean),
                "n": str(margin.mean.n),
                "difference": NONE if margin.difference is None else interval(margin.difference, sign=True),
            }
            for name in names
            for margin in margins(sweep, name, objective)
        ]
        tables.append((f"Main effects on {title(sweep.record, objective)}", pd.DataFrame(rows)))
        if len(names) == 2:
            tables.append((f"Means of {title(sweep.record, objective)}", _matrix_table(sweep, objective)))
    return tables


def _matrix_table(sweep: Sweep, objective: str) -> pd.DataFrame:
    first, second = factors(sweep)
    table = matrix(sweep, objective)
    table.columns = [f"{second}={label(level)}" for level in sweep.levels(second)]
    table = table.map(number)
    table.insert(0, first, [label(level) for level in sweep.levels(first)])
    return table


def markdown(sweep: Sweep, found: Sequence[Effect]) -> str:
    """table.md."""
    parts = [f"# {sweep.name}", sweep.record.get("question") or "", _markdown_table(main_table(sweep, found))]
    parts.append("\n".join(f"- {line}" for line in notes(sweep, found)))
    for heading, table in factor_tables(sweep):
        parts += [f"## {heading}", _markdown_table(table)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown_table(table: pd.DataFrame) -> str:
    lines = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', '¦').replace(chr(10), ' ') for cell in line)} |" for line in lines
    )


def print_tables(sweep: Sweep, found: Sequence[Effect], console: Console) -> None:
    """The main table, in several where the terminal is too narrow for it, then those of the factors."""
    heading = f"{sweep.name}: {sweep.record.get('question') or ''}".rstrip(": ")
    table = main_table(sweep, found).rename(columns=short_names(sweep.treatments))
    for part in _fitting(table, len(sweep.treatments), console):
        console.print(_rich(heading, part))
        heading = "what else was noted"
    for line in notes(sweep, found):
        console.print(line, style="dim", highlight=False, markup=False)
    for heading, table in factor_tables(sweep):
        console.print(_rich(heading, table))


def _fitting(table: pd.DataFrame, fixed: int, console: Console) -> list[pd.DataFrame]:
    """The columns in as few tables as fit the terminal, each with the first `fixed` ones."""
    start = list(table.columns[:fixed])
    parts = [start]
    for name in table.columns[fixed:]:
        wider = _rich("", table[[*parts[-1], name]])
        if (
            parts[-1] != start
            and wider.__rich_measure__(console, console.options.update(width=1000)).maximum > console.width
        ):
            parts.append(start)
        parts[-1] = [*parts[-1], name]
    return [table[part] for part in parts]


def _rich(title: str, table: pd.DataFrame) -> Table:
    result = Table(title=Text(title), title_justify="left")
    for name in table.columns:
        # Broken by hand: left to itself rich would break the numbers.
        result.add_column(Text(name.replace("/", "/\n").replace(" ", "\n")), justify="right", no_wrap=True)
    for row in table.to_numpy().tolist():
        # As Text, since rich takes brackets for its markup.
        result.add_row(*map(Text, row))
    return result


def trials_csv(sweep: Sweep) -> pd.DataFrame:
    """One row a trial and seed: its state, parameters, values, scores before and after, cost and error."""
    params = sweep.points.drop(columns=["state", "point", "block", "pruned_step", "error", *sweep.objectives])
    for name in [*sweep.treatments, *sweep.blocks]:
        # An empty cell is a parameter that the trial lacks.
        params[name] = ["null" if value is None else value for value in params[name]]
    rows = sweep.seeds.merge(params, on="trial")
    scores = [name for name in rows if name.startswith(("before/", "after/"))]
    kept = ["trial", "state", *params.columns.drop("trial"), "seed", "counted", *sweep.objectives, *scores]
    return rows[[*kept, "steps", "seconds", "train_seconds", "memory_mib", "error"]]
