"""Before a sweep starts: can its points run, how long will they take, and will they have anything to learn from."""

import logging
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from rich.console import Console
from rich.table import Table

from r1lab.run_folder import read_summary
from r1lab.sweeper.points import objective_override, value_of
from r1lab.sweeper.results import measured as measured_in
from r1lab.sweeper.space import SpaceError, Value

log = logging.getLogger("r1lab.sweeper")

_CHECKED = 48  # points of a larger space that are tried out
_DRY_STEPS = 3


def preflight(sweep: Any, runs_left: Sequence[int]) -> None:
    """Print what a sweep is going to do. Raises SpaceError for a space whose points cannot run.

    Args:
        sweep: `r1lab.sweeper.sweeper.Sweep`. runs_left: of each point that is to be run.
    """
    tried = some_points(sweep)
    log.info(f"{sweep.settings.name}: trying out {len(tried)} points, and {_DRY_STEPS} steps of one")
    if sweep.check is not None:
        refuse_points_that_cannot_run(sweep, tried)
    baseline = (sweep.settings.baseline or {}).items()
    measured = dry_run(sweep, next((point for point in tried if baseline <= point.items()), tried[0]))
    table = Table(
        title=f"Sweep {sweep.settings.name}: {sweep.settings.question}", show_header=False, title_justify="left"
    )
    points, runs = len(runs_left), sum(runs_left)
    seeds = " or ".join(str(number) for number in sorted(set(runs_left)))
    at_a_time = max(sweep.settings.workers, sweep.settings.batch)
    seconds = runs * measured["run"] / at_a_time
    table.add_row("to run", f"{points} points x {seeds} seeds = {runs} runs of {sweep.steps} steps")
    table.add_row("a run, from a dry one", f"{measured['run']:.0f} s ({measured['step']:.2f} s a step)")
    pruned = " at most, less what pruning saves" if sweep.settings.pruner else ""
    table.add_row("in all", f"{_duration(seconds)}{pruned}, {at_a_time} at a time")
    if measured["pass_rate"] is not None:
        shares = ", ".join(f"{no_signal(measured['pass_rate'], size):.0%} at G = {size}" for size in group_sizes(sweep))
        table.add_row(f"groups without signal (base right: {measured['pass_rate']:.1%})", shares)
    Console().print(table)


def some_points(sweep: Any) -> list[dict[str, Value]]:
    """The points of a grid, at most `_CHECKED` of them, or as many drawn at random."""
    if sweep.settings.is_grid:
        points = sweep.grid()
        return points if len(points) <= _CHECKED else [points[0], *random.Random(0).sample(points[1:], _CHECKED - 1)]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    if sweep.settings.baseline:
        study.enqueue_trial(sweep.settings.baseline)
    return [sweep.suggest(study.ask()) for _ in range(_CHECKED // 2)]


def refuse_points_that_cannot_run(sweep: Any, points: Sequence[dict[str, Value]]) -> None:
    """Build each point's parts, all but its weights; what they warn of is told once. In a grid every point must run; of
    other spaces, some."""
    errors: list[tuple[dict[str, Value], Exception]] = []
    with collected_warnings("r1lab") as warned:
        for point in list(points):
            try:
                sweep.check(sweep.plain_config(sweep.space.overrides(point)))
            except Exception as error:
                errors.append((point, error))
                points.remove(point)
    for message, count in warned.items():
        log.warning(f"{count} of the points that were tried: {message}")
    if not errors:
        return
    point, error = errors[0]
    told = f"{', '.join(f'{name}={value}' for name, value in point.items())} cannot run: {' '.join(str(error).split())}"
    if sweep.settings.is_grid or not points:
        raise SpaceError(f"hydra.sweeper.params: {told}")
    log.warning(f"{len(errors)} of {len(errors) + len(points)} points that were tried {told}")


@contextmanager
def collected_warnings(name: str) -> Iterator[Counter[str]]:
    """Inside, a logger's warnings are counted instead of told; what a run says at lower levels is left to runs."""
    logger, warned, handler = logging.getLogger(name), Counter(), logging.Handler(logging.WARNING)
    handler.emit = lambda record: warned.update([record.getMessage()])
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield warned
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
        logger.setLevel(level)


def dry_run(sweep: Any, point: dict[str, Value]) -> dict[str, float | None]:
    """Run a few steps of a point, also for what later runs find ready (base, scores before the first step).

    Returns:
        step, run: seconds a training step and a whole run take; pass_rate: of the base, None where it is not scored.
    """
    folder = sweep.folder / f"dry_run_{os.getpid()}"  # others may begin at the same moment
    overrides = [
        *sweep.space.overrides(point),
        f"seed={sweep.settings.seed_list[0]}",
        objective_override(sweep.settings),
        f"trainer.max_steps={_DRY_STEPS}",
        f"trainer.val_check_interval={_DRY_STEPS}",
        f"hydra.sweep.subdir={folder.name}",
        f"evaluation.cache={sweep.folder / 'before'}",
    ]
    started = time.perf_counter()
    (job,) = sweep.launch([overrides], initial_job_idx=0)
    wall = time.perf_counter() - started
    value = value_of(job)  # raises what the run raised
    refuse_unknown_objective(folder, sweep.settings.objective_list, value if isinstance(value, list) else [value])
    measured = estimate(folder, wall, steps=sweep.steps, every=sweep.base["trainer"]["val_check_interval"])
    shutil.rmtree(folder, ignore_errors=True)
    return measured


def refuse_unknown_objective(folder: Path, names: Sequence[str], values: Sequence[float | None]) -> None:
    """Raises SpaceError for an objective that a dry run did not measure, and a whole one would not either.

    A metric of the training may have had nothing to measure in a few steps (no wrong completion, say).
    """
    known = measured_in(folder)
    trained = {name.partition("/")[0] for name in pd.read_csv(folder / "metrics.csv", nrows=0)} - {"validation"}
    for name, value in zip(names, values, strict=True):
        if value is None and name not in known and name.partition("/")[0] not in trained:
            told = f"{name} was not measured in the dry run; there are {', '.join(known) or 'none'}"
            raise SpaceError(f"hydra.sweeper.objectives: {told}")


def estimate(folder: Path, wall: float, *, steps: int, every: int) -> dict[str, float | None]:
    """From a dry run's folder and its seconds to those of a whole run of `steps`, validated each `every`."""
    summary, metrics = read_summary(folder), pd.read_csv(folder / "metrics.csv")
    step = metrics["time/step_seconds"].iloc[1:].median()
    validation = metrics["validation/seconds"].dropna().iloc[-1]
    scored = summary.get("evaluate_seconds", {})
    around = wall - metrics["time/step_seconds"].sum() - validation - scored.get("before", 0.0)
    rates = [split["pass_at_1"] for split in summary.get("before", {}).values()]
    return {
        "step": step,
        "run": max(around, 0.0) + steps * step + steps // every * validation,
        "pass_rate": rates[0] if rates else None,
    }


def group_sizes(sweep: Any) -> list[int]:
    parameter = sweep.space.parameters.get("rollout.group_size")
    return list(parameter.levels) if parameter and parameter.levels else [sweep.base["rollout"]["group_size"]]


def no_signal(pass_rate: float, group_size: int) -> float:
    """The share of groups in which all completions are right or all wrong, where each is right at the same rate."""
    return pass_rate**group_size + (1 - pass_rate) ** group_size


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{max(minutes, 1)} min"
