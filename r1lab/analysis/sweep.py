"""A sweep as tidy tables, read from its Optuna study alone and without writing to it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from r1lab.analysis.seed_rows import curve_rows, seed_rows
from r1lab.analysis.setting import Setting, find_baseline, key, setting_key
from r1lab.analysis.study import SweepError, open_study

__all__ = ["Sweep", "SweepError", "load_sweep"]


@dataclass(frozen=True)
class Sweep:
    """A sweep. A *point* is a setting of the treatments; its replications are the levels of the blocks, and seeds.

    record: what the sweep noted of itself (question, baseline, seeds, params, command, ...).
    settings: of each point, in the order of the levels; `point` in the tables is the index into it.
    baseline: its point; None: `baseline_note` says why.

    points: one row a trial: trial, state, point, block, pruned_step, error, one column a parameter (missing = NaN,
        null = None) and one an objective (the trial's own value).
    seeds: one row a trial and seed: trial, state, point, block, seed, counted, one column an objective, steps,
        seconds, train_seconds, memory_mib, run, error, `before/<split>/<score>`, `after/<split>/<score>`, and
        `last/<metric>`: the curve's last value. `counted`: it enters the statistics: it is finished, its trial was
        neither pruned nor failed, and no later trial repeats it.
    curves: one row a validated step of a seed: trial, state, point, block, seed, counted, step, one column a metric.
    """

    name: str
    record: dict[str, Any]
    study: optuna.Study
    treatments: list[str]
    blocks: list[str]
    settings: list[Setting]
    baseline: int | None
    baseline_note: str
    points: pd.DataFrame
    seeds: pd.DataFrame
    curves: pd.DataFrame

    @property
    def objectives(self) -> list[str]:
        return list(self.record["objectives"])

    @property
    def is_search(self) -> bool:
        """Whether a sampler chose the points, instead of a grid."""
        return "grid" not in str(self.record.get("sampler") or "grid").lower()

    def maximize(self, objective: str) -> bool:
        return self.study.directions[self.objectives.index(objective)] == optuna.study.StudyDirection.MAXIMIZE

    def levels(self, param: str) -> list[Any]:
        """The values of a parameter that occur, in the order of the points."""
        found = {key(setting[param]): setting[param] for setting in self.settings if param in setting}
        return list(found.values())


def load_sweep(source: str | Path, study: str | None = None) -> Sweep:
    """Read a sweep, finished or not.

    Args:
        source: the folder with its journal.log, or the URL of a database (`sqlite:///sweeps.db`).
        study: name in the storage; may be left out where there is one study, or one named like the folder.

    Raises:
        SweepError: no such folder or database, no such study, a study that holds no sweep, no finished trial.
    """
    opened = open_study(source, study)
    record = opened.user_attrs.get("sweep")
    if not isinstance(record, dict) or not record.get("objectives"):
        raise SweepError(f"study {opened.study_name} was not made by a sweep of r1lab: it lacks the record `sweep`")
    trials = _newest(opened.get_trials(deepcopy=False))
    if not any(trial.state == TrialState.COMPLETE for trial in trials):
        raise SweepError(f"study {opened.study_name} has no finished trial yet: {_states(trials)}")
    blocks = list(record.get("blocks") or [])
    params = list(dict.fromkeys([*(record.get("params") or {}), *(name for trial in trials for name in trial.params)]))
    settings = _settings(trials, [param for param in params if param not in blocks], record)
    baseline, note = find_baseline(settings, record.get("baseline"), blocks)
    places = _places(trials, settings, blocks)
    seeds = pd.DataFrame(seed_rows(trials, places, record)).astype({"point": "Int64", "seed": "Int64"})
    seeds[record["objectives"]] = seeds[record["objectives"]].astype(float)
    seeds = _mark_counted(seeds, record)
    if not seeds["counted"].any():
        raise SweepError(f"study {opened.study_name} has finished trials, but none noted the value of a seed")
    curves = pd.DataFrame(curve_rows(trials, places, record))
    if len(curves):
        curves = curves.astype({"point": "Int64", "seed": "Int64"}).merge(
            seeds[["trial", "seed", "counted"]], on=["trial", "seed"], how="left"
        )
    return Sweep(
        name=record.get("name") or opened.study_name,
        record=record,
        study=opened,
        treatments=[param for param in params if param not in blocks],
        blocks=blocks,
        settings=settings,
        baseline=baseline,
        baseline_note=note,
        points=_points(trials, places, params, record),
        seeds=seeds,
        curves=curves,
    )


def _newest(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Without those that a finished one went on with, which holds all that they noted, and those whose process died."""
    continued = {t.user_attrs.get("goes_on") for t in trials if t.state == TrialState.COMPLETE}
    return [t for t in trials if t.number not in continued and not t.user_attrs.get("abandoned")]


def _settings(trials: list[FrozenTrial], treatments: list[str], record: dict) -> list[Setting]:
    """The distinct settings, by the order of their levels, then as they came."""
    found: dict[tuple, Setting] = {}
    for trial in trials:
        # A trial that waits has not been given its parameters.
        if trial.params:
            setting = {name: trial.params[name] for name in treatments if name in trial.params}
            found.setdefault(setting_key(setting), setting)
    return sorted(found.values(), key=lambda setting: [_rank(setting, name, record) for name in treatments])


def _rank(setting: Setting, name: str, record: dict) -> int:
    levels = [key(level) for level in (record.get("params") or {}).get(name, {}).get("levels") or []]
    return levels.index(key(setting[name])) if name in setting and key(setting[name]) in levels else -1


def _places(trials: list[FrozenTrial], settings: list[Setting], blocks: list[str]) -> dict[int, dict[str, Any]]:
    """Trial number -> {trial, state, point, block}."""
    index = {setting_key(setting): i for i, setting in enumerate(settings)}
    places = {}
    for trial in trials:
        setting = {name: value for name, value in trial.params.items() if name not in blocks}
        block = ", ".join(str(trial.params[name]) for name in blocks if name in trial.params)
        point = index.get(setting_key(setting)) if trial.params else None
        places[trial.number] = {"trial": trial.number, "state": trial.state.name, "point": point, "block": block}
    return places


def _points(trials: list[FrozenTrial], places: dict, params: list[str], record: dict) -> pd.DataFrame:
    rows = [_point_row(trial, places[trial.number], params, record) for trial in trials]
    # By way of objects: else a null among numbers or texts would become NaN, which means missing here.
    table = pd.DataFrame(rows, dtype=object)
    plain = [name for name in table if name not in params or not any(value is None for value in table[name])]
    return table.assign(**{name: table[name].infer_objects() for name in plain}).astype({"point": "Int64"})


def _point_row(trial: FrozenTrial, place: dict[str, Any], params: list[str], record: dict) -> dict[str, Any]:
    values = trial.values if trial.state == TrialState.COMPLETE else None
    return {
        **place,
        **{name: trial.params.get(name, float("nan")) for name in params},
        **dict(zip(record["objectives"], values or [None] * len(record["objectives"]), strict=False)),
        "pruned_step": (trial.user_attrs.get("pruned") or {}).get("step"),
        "error": trial.user_attrs.get("error"),
    }


def _mark_counted(seeds: pd.DataFrame, record: dict) -> pd.DataFrame:
    """Add `counted`. Of repetitions of one run the finished trial's counts, then the newest: with the same seed they
    are no new evidence."""
    finished = seeds["state"].isin(["COMPLETE", "RUNNING"]) & seeds[record["objectives"]].notna().all(axis=1)
    order = seeds.assign(running=seeds["state"] == "RUNNING", newest=-seeds["trial"])[finished]
    first = order.sort_values(["running", "newest"]).drop_duplicates(["point", "block", "seed"])
    return seeds.assign(counted=seeds.index.isin(first.index))


def _states(trials: list[FrozenTrial]) -> str:
    counts = pd.Series([trial.state.name.lower() for trial in trials], dtype=str).value_counts().sort_index()
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "no trial at all"
