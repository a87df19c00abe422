"""What a run of a point leaves in the study: its value, its scores, its curve. Analysis needs nothing else."""

from pathlib import Path
from typing import Any

import pandas as pd

from r1lab.run_folder import read_summary

SEED = "seed/"
GOES_ON = "goes_on"  # a trial's user attribute: the number of the one that it continues with more seeds
KEPT = ("train_seconds", "evaluate_seconds", "steps", "before", "after", "memory_mib", "commit", "device")


def seed_key(seed: int) -> str:
    """The trial's user attribute for the run with a seed."""
    return f"{SEED}{seed}"


def measured(folder: Path) -> list[str]:
    """What a finished run could have had for its objective, training metrics aside."""
    path = folder / "metrics.csv"
    columns = pd.read_csv(path, nrows=0).columns if path.exists() else []
    scored = [f"{split}/{name}" for split, scores in read_summary(folder).get("after", {}).items() for name in scores]
    return sorted(name for name in columns if name.startswith("validation/")) + scored


def run_record(folder: Path, value: float | list[float], seconds: float) -> dict[str, Any]:
    """The record of a finished run, from its folder.

    Args:
        value: of the objective, or of each. seconds: that the run took in all.
    """
    summary = read_summary(folder)
    kept = {key: summary[key] for key in KEPT if key in summary}
    place = {"value": value, "seconds": round(seconds, 2), "run": _short(folder)}
    return {**place, **kept, "mean": means(folder), "curve": curve(folder)}


def _short(folder: Path) -> str:
    """The folder as seen from here, where it lies below: a study may go on in another clone."""
    folder = folder.absolute()
    return str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)


def curve(folder: Path) -> dict[str, list[float | None]]:
    """Every metric at the validated steps, rounded to six digits; None where it was not measured."""
    path = folder / "metrics.csv"
    if not path.exists():
        return {}
    table = pd.read_csv(path)
    validated = [name for name in table if name.startswith("validation/")]
    table = table.dropna(subset=validated, how="all") if validated else table.iloc[-1:]
    columns = {name: table[name] for name in table if not name.startswith("time/")}
    return {
        name: [None if pd.isna(v) else int(v) if name == "step" else _rounded(v) for v in column]
        for name, column in columns.items()
    }


def means(folder: Path) -> dict[str, float]:
    """The mean over all steps of what is measured in each: one minibatch's clip fraction says little."""
    path = folder / "metrics.csv"
    if not path.exists():
        return {}
    table = pd.read_csv(path).filter(regex="^(advantage|loss|reward|rollout)/")
    return {name: _rounded(value) for name, value in table.mean().items() if not pd.isna(value)}


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
