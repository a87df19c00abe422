"""The heading of a score: its split, its name, and how the completions were decoded."""

from collections.abc import Mapping
from typing import Any

GREEDY = "after/heldout/greedy"
_TITLES = {GREEDY: "held-out greedy"}


def title(record: Mapping[str, Any], column: str) -> str:
    """Heading of a column, such as `validation pass@1, T 1`; the column's name where the decoding is unknown.

    Args:
        record: of the sweep. column: an objective, or a column of `r1lab.analysis.sweep.Sweep.seeds`.
    """
    split, _, score = column.removeprefix("after/").removeprefix("last/").rpartition("/")
    sampling = decoding(record)
    if column in _TITLES or not score.startswith("pass_at_") or not sampling:
        return _TITLES.get(column, column)
    return f"{'held-out' if split == 'heldout' else split} pass@{score.removeprefix('pass_at_')}, {sampling}"


def decoding(record: Mapping[str, Any]) -> str:
    """`T 1`, or `T 0.6, top-p 0.95`; empty where a record does not hold it, or where it is what the sweep varies."""
    config = {name.removeprefix("evaluation."): value for name, value in (record.get("config") or {}).items()}
    varied = any(name.startswith("evaluation.") for name in record.get("params") or {})
    if varied or config.get("temperature") is None:
        return ""
    limits = (("top-p", config.get("top_p"), 1.0), ("top-k", config.get("top_k"), 0))
    parts = [f"T {config['temperature']:g}", *(f"{name} {v:g}" for name, v, off in limits if v not in (None, off))]
    return ", ".join(parts)
