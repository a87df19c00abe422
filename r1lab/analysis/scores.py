"""The table of an evaluation's scores."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table


def score_table(
    scores: Mapping[str, Mapping[str, Any]], before: Mapping[str, Mapping[str, Any]] | None = None
) -> Table:
    """One row a score, one column a split, 95 % intervals beside where there are any; with `before`, before -> after.

    Both are as `r1lab.module.evaluation.evaluate_splits` returns them.
    """
    table = Table("", *scores)
    for name in (name for name in next(iter(scores.values())) if not name.endswith(("_low", "_high"))):
        cells = {split: _cell(values, name) for split, values in scores.items()}
        if before is not None:
            cells = {split: f"{_cell(before[split], name)} -> {cell}" for split, cell in cells.items()}
        table.add_row(name, *cells.values())
    return table


def _cell(scores: Mapping[str, Any], name: str) -> str:
    if name not in scores:
        return "-"  # a kind of prompt that the split has none of
    if not isinstance(scores[name], float):
        return str(scores[name])
    interval = f" [{scores[f'{name}_low']:.2f}, {scores[f'{name}_high']:.2f}]" if f"{name}_low" in scores else ""
    return f"{scores[name]:.3f}{interval}"
