"""What a trial of a sweep noted of its seeds, as rows."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial


def seed_rows(
    trials: Sequence[FrozenTrial], places: Mapping[int, dict[str, Any]], record: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """One row a trial and seed, also one that was pruned or failed before it noted anything; the columns of
    `r1lab.analysis.sweep.Sweep.seeds` but for `counted`.

    Args:
        places: trial number -> {trial, state, point, block}. record: of the sweep.
    """
    for trial in trials:
        noted, reported = _noted(trial), _reported(trial, record)
        for seed in sorted({*noted, *reported, *_pruned_seed(trial, record)}) or [None]:
            yield (
                places[trial.number] | {"seed": seed} | _row(trial, noted.get(seed, {}), reported.get(seed, {}), record)
            )


def curve_rows(
    trials: Sequence[FrozenTrial], places: Mapping[int, dict[str, Any]], record: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """One row a validated step of a seed; a run that was cut short has but the values it reported."""
    for trial in trials:
        noted, reported = _noted(trial), _reported(trial, record)
        for seed in sorted({*noted, *reported}):
            curve = noted.get(seed, {}).get("curve") or {}
            if not curve.get("step"):
                curve = {
                    "step": list(reported.get(seed, {})),
                    record["objectives"][0]: list(reported.get(seed, {}).values()),
                }
            for i in range(len(curve["step"])):
                yield places[trial.number] | {"seed": seed} | {name: values[i] for name, values in curve.items()}


def _noted(trial: FrozenTrial) -> dict[int, dict[str, Any]]:
    """Seed -> its record."""
    return {
        int(name.removeprefix("seed/")): note
        for name, note in trial.user_attrs.items()
        if name.startswith("seed/") and isinstance(note, dict)
    }


def _reported(trial: FrozenTrial, record: Mapping[str, Any]) -> dict[int, dict[int, float]]:
    """Seed -> {step: intermediate value}. The key is seed_index * steps + step, with step in 1..steps."""
    found: dict[int, dict[int, float]] = {}
    for number, value in sorted(trial.intermediate_values.items()):
        index = max(0, number - 1) // record["steps"]
        if index < len(record["seeds"]):
            found.setdefault(record["seeds"][index], {})[number - index * record["steps"]] = value
    return found


def _pruned_seed(trial: FrozenTrial, record: Mapping[str, Any]) -> set[int]:
    index = (trial.user_attrs.get("pruned") or {}).get("seed_index")
    return {record["seeds"][index]} if index is not None and index < len(record["seeds"]) else set()


def _row(
    trial: FrozenTrial, note: Mapping[str, Any], reported: Mapping[int, float], record: Mapping[str, Any]
) -> dict[str, Any]:
    value = note.get("value")
    values = value if isinstance(value, list) else [value]
    row = dict.fromkeys(record["objectives"])
    objectives = dict(zip(row, map(_finite, values), strict=False))
    # A seed without a note was cut short; the last step that it reported is as far as is known.
    row["steps"] = note.get("steps", max(reported, default=None) if not note else None)
    if row["steps"] is None and not note:
        row["steps"] = (trial.user_attrs.get("pruned") or {}).get("step")
    row |= {name: note.get(name) for name in ("seconds", "train_seconds", "run")}
    row["memory_mib"] = _memory(note.get("memory_mib") or {})
    row["error"] = note.get("error") or trial.user_attrs.get("error")
    for when in ("before", "after"):
        for split, scores in (note.get(when) or {}).items():
            row |= {f"{when}/{split}/{name}": _finite(score) for name, score in scores.items()}
    row |= {f"mean/{name}": _finite(value) for name, value in (note.get("mean") or {}).items()}
    for name, curve in (note.get("curve") or {}).items():
        row[f"last/{name}"] = next((v for v in reversed(curve) if _finite(v) is not None), None)
    # Last: an objective may be named like what is noted of every run (train_seconds).
    return row | objectives


def _memory(parts: Mapping[str, Any]) -> float | None:
    """The peak that a GPU measured; elsewhere what is held between two steps, all parts together."""
    return _finite(parts.get("peak")) or sum(filter(None, map(_finite, parts.values()))) or None


def _finite(value: Any) -> float | None:
    """A number; None for what is none, NaN included."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None
