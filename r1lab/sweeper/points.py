"""Points of a sweep: a run for each seed, what it returned, and what the study is told of them."""

import io
import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from r1lab.entry import Stopped, describe
from r1lab.override import quoted
from r1lab.sweeper.reporter import PRUNED
from r1lab.sweeper.results import GOES_ON, measured, run_record, seed_key
from r1lab.sweeper.settings import Settings
from r1lab.sweeper.space import Value
from r1lab.sweeper.work import ERROR, Queue

log = logging.getLogger("r1lab.sweeper")


def value_of(job: Any) -> Any:
    """What a run returned; raises what it raised, or its launcher, without the line that Hydra would print for it."""
    if isinstance(job, Exception):
        raise job
    with redirect_stderr(io.StringIO()):
        return job.return_value


def objective_override(settings: Settings) -> str:
    """The sweep's objective, or all of them, for a run."""
    names = settings.objective_list
    return f"objective={quoted(names[0] if len(names) == 1 else names)}"


class Points:
    """Runs the points that a process has claimed.

    Args:
        sweep: the `r1lab.sweeper.sweeper.Sweep` that they are of. study, queue: where they are.
    """

    def __init__(self, sweep: Any, study: optuna.Study, queue: Queue):
        self.sweep, self.settings, self.study, self.queue = sweep, sweep.settings, study, queue

    def run(self, trials: Sequence[optuna.Trial]) -> None:
        """Some points at a time, seed after seed; one that fails or is pruned has no further seed."""
        values = {trial.number: self.inherit(trial) for trial in trials}
        going = list(trials)
        points = {trial.number: self.sweep.suggest(trial) for trial in trials}
        for index, seed in enumerate(self.settings.seed_list):
            new = [trial for trial in going if index >= len(values[trial.number])]
            for trial, job, seconds in self.launch(new, points, seed, index):
                if not self.take(trial, seed, job, seconds, values[trial.number]):
                    going.remove(trial)
        for trial in going:
            means = [sum(column) / len(column) for column in zip(*values[trial.number], strict=True)]
            self.study.tell(trial, means)
            self.say(trial, ", ".join(f"{mean:.4g}" for mean in means))

    def inherit(self, trial: optuna.Trial) -> list[list[float]]:
        """Take over what the trial goes on with, which had fewer seeds; the value of each seed that it had."""
        number, storage, values = trial.user_attrs.get(GOES_ON), self.queue.storage, []
        if number is None:
            return values
        before = next(t for t in self.queue.trials() if t.number == number)
        for step, reported in before.intermediate_values.items():
            storage.set_trial_intermediate_value(trial._trial_id, step, reported)
        for key in map(seed_key, self.settings.seed_list):
            if key not in before.user_attrs:
                break
            trial.set_user_attr(key, before.user_attrs[key])
            value = before.user_attrs[key]["value"]
            values.append(value if isinstance(value, list) else [value])
        return values

    def launch(
        self, trials: Sequence[optuna.Trial], points: Mapping[int, Mapping[str, Value]], seed: int, index: int
    ) -> list[tuple[optuna.Trial, Any, float]]:
        """(trial, what its run returned, seconds) for one seed of each."""
        if not trials:
            return []
        for trial in trials:
            # Of a study that is no more: its points had the same numbers.
            shutil.rmtree(self.sweep.folder / self.subdir(trial, seed), ignore_errors=True)
        jobs = [self.overrides(trial, points[trial.number], seed, index) for trial in trials]
        started = time.perf_counter()
        number = trials[0].number * len(self.settings.seed_list) + index
        try:
            returned = self.sweep.launch(jobs, initial_job_idx=number)
        except Stopped:
            raise
        except Exception as error:  # a job that its launcher lost
            returned = [error] * len(jobs)
        seconds = (time.perf_counter() - started) / len(jobs)
        return [(trial, job, seconds) for trial, job in zip(trials, returned, strict=True)]

    def overrides(self, trial: optuna.Trial, point: Mapping[str, Value], seed: int, index: int) -> list[str]:
        """Of one run."""
        overrides = [
            *self.sweep.space.overrides(point),
            f"seed={seed}",
            objective_override(self.settings),
            f"hydra.sweep.subdir={self.subdir(trial, seed)}",
            f"evaluation.cache={quoted(self.sweep.folder / 'before')}",
        ]
        names = self.settings.objective_list
        if len(names) == 1 and names[0].startswith("validation/"):
            callback = self.pruning(trial, index)
            overrides.append(f"+callback.pruning={quoted(callback)}")
        return overrides

    def pruning(self, trial: optuna.Trial, index: int) -> dict[str, Any]:
        """The config of the callback that reports the run's objective to the study."""
        report = {
            "_target_": "r1lab.sweeper.reporter.Reporter",
            "_recursive_": False,
            "storage": self.settings.storage,
            "study": self.settings.name,
            "trial": trial.number,
            "pruner": self.settings.pruner,
            "seed_index": index,
            "seeds": len(self.settings.seed_list),
            "steps": self.sweep.steps,
        }
        return {
            "_target_": "r1lab.callback.pruning.Pruning",
            "metric": self.settings.objective_list[0],
            "report": report,
        }

    def subdir(self, trial: optuna.Trial, seed: int) -> str:
        return f"point_{trial.number:04}/seed_{seed}"

    def take(self, trial: optuna.Trial, seed: int, job: Any, seconds: float, values: list[list[float]]) -> bool:
        """Note what a run returned; whether the point goes on."""
        try:
            return self._take(trial, seed, job, seconds, values)
        except UpdateFinishedTrialError:
            log.warning(f"point {trial.number} was taken over by another process, which saw no life of this one")
            return False

    def _take(self, trial: optuna.Trial, seed: int, job: Any, seconds: float, values: list[list[float]]) -> bool:
        try:
            value = value_of(job)
        except Stopped:
            raise
        except Exception as error:
            return self.fail(trial, describe(error, "train"))
        row = value if isinstance(value, list) else [value]
        folder = self.sweep.folder / self.subdir(trial, seed)
        named = list(zip(self.settings.objective_list, row, strict=True))
        if missing := [name for name, number in named if number is None]:
            there = ", ".join(measured(folder)) or "none in this run"
            return self.fail(trial, f"seed {seed}: {', '.join(missing)} was never measured; there are {there}")
        if not all(map(math.isfinite, row)):
            told = ", ".join(f"{name}={v}" for name, v in named)
            return self.fail(trial, f"seed {seed}: the objective is not a number ({told})")
        values.append(row)
        trial.set_user_attr(seed_key(seed), run_record(folder, value, seconds))
        pruned = self.queue.storage.get_trial(trial._trial_id).user_attrs.get(PRUNED)
        if pruned is None:
            return True
        self.study.tell(trial, state=TrialState.PRUNED)
        self.say(trial, f"pruned in seed {seed} at step {pruned['step']}")
        return False

    def fail(self, trial: optuna.Trial, error: str) -> bool:
        trial.set_user_attr(ERROR, error)
        self.study.tell(trial, state=TrialState.FAIL)
        self.say(trial, f"failed: {error}")
        return False

    def say(self, trial: optuna.Trial, outcome: str) -> None:
        trials = self.queue.held().values()
        done = sum(t.state.is_finished() for t in trials)
        point = " ".join(f"{name}={_short(value)}" for name, value in trial.params.items())
        log.info(f"{done}/{len(trials)}  {point}  {outcome}")


def _short(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
