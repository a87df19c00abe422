"""How far a sweep has come."""

from datetime import timedelta
from itertools import product

from r1lab.analysis.number import counted
from r1lab.analysis.sweep import Sweep


def progress(sweep: Sweep) -> str:
    """`all finished`, or how many are not and why, and how many a grid still lacks."""
    counts = sweep.points["state"].str.lower().replace({"fail": "failed", "complete": "finished"}).value_counts()
    order = [name for name in ("finished", "pruned", "failed", "running", "waiting") if name in counts]
    parts = [f"{counts[name]} {name}" for name in order]
    if missing := missing_trials(sweep):
        parts.append(f"{missing} missing of the grid's {grid_size(sweep)}")
    complete = int((sweep.points["state"] == "COMPLETE").sum())
    finished = sweep.seeds[sweep.seeds["state"] == "COMPLETE"]
    if lost := complete * len(sweep.record["seeds"]) - int(finished[sweep.objectives].notna().all(axis=1).sum()):
        parts.append(f"{counted(lost, 'seed')} missing in finished ones")
    return ", ".join(parts) if len(parts) > 1 else "all finished"


def grid_size(sweep: Sweep) -> int | None:
    """Trials of the grid less those left out; None where a sampler chooses or parameters depend on each other."""
    params = sweep.record.get("params") or {}
    conditional = any(set(setting) != set(sweep.treatments) for setting in sweep.settings)
    if sweep.is_search or conditional or not all(param.get("levels") for param in params.values()):
        return None
    points = [dict(zip(params, levels, strict=True)) for levels in product(*(p["levels"] for p in params.values()))]
    excluded = sweep.record.get("exclude") or []
    return sum(not any(part.items() <= point.items() for part in excluded) for point in points)


def missing_trials(sweep: Sweep) -> int:
    """Places of the grid that no trial has finished, been pruned in, or is in."""
    known = sweep.points[sweep.points["point"].notna()].drop_duplicates(["point", "block"])
    return max(0, (grid_size(sweep) or 0) - len(known))


def is_unfinished(sweep: Sweep) -> bool:
    return bool(missing_trials(sweep)) or sweep.points["state"].isin(["RUNNING", "WAITING"]).any()


def wall_hours(sweep: Sweep) -> float:
    """Hours in which at least one trial ran, whatever lay between."""
    trials = [t for t in sweep.study.get_trials(deepcopy=False) if t.datetime_start and t.datetime_complete]
    # When a process died is unknown: its trial ends when another one finds out.
    trials = [trial for trial in trials if not trial.user_attrs.get("abandoned")]
    total, until = timedelta(), None
    for trial in sorted(trials, key=lambda t: t.datetime_start):
        start = trial.datetime_start if until is None else max(trial.datetime_start, until)
        total += max(trial.datetime_complete - start, timedelta())
        until = trial.datetime_complete if until is None else max(trial.datetime_complete, until)
    return total / timedelta(hours=1)
