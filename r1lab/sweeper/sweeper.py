"""The sweeper: what a sweep is, in one process's hands.

Several processes, of one machine or of many, may work on a study at the same time; each runs this.
"""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, open_dict

from r1lab.entry import flat, plain
from r1lab.run_folder import commit, device_name, versions
from r1lab.sweeper.points import Points
from r1lab.sweeper.preflight import preflight
from r1lab.sweeper.processes import share_cores, start_workers, stop, stopped_in_a_line
from r1lab.sweeper.settings import Settings
from r1lab.sweeper.space import SpaceError, Value, parse_space
from r1lab.sweeper.study import CONFIG, has_study, open_storage, open_study
from r1lab.sweeper.work import ERROR, Queue, lacks, slot_of

log = logging.getLogger("r1lab.sweeper")


# Settings under which a run is the same: a point has seeds of its own, and any kernel computes the same.
_NOT_COMPARED = ("seed", "ckpt_path", "kernel")
_IMPLEMENTATIONS = ("model.attention", "model.policy.attention")  # and any attention


class SweepError(RuntimeError):
    """A sweep that cannot go on."""


def named(settings: Settings, key: str) -> Callable | None:
    """The function that a setting names. Raises ValueError where there is none."""
    name = getattr(settings, key)
    try:
        return None if name is None else get_object(name)
    except Exception as error:
        raise ValueError(f"hydra.sweeper.{key}={name} is no function that can be imported: {error}") from error


class Sweep:
    """One process's part of a sweep.

    Args:
        settings: of the sweep.
        config: the composed config, with its `hydra` node. arguments: overrides of the command line.
        compose: overrides -> the composed config of a run. launch: a Hydra launcher's: overrides of some runs, number
            of the first -> what each returned.

    Raises:
        SpaceError: for a search space that cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        config: DictConfig,
        arguments: Sequence[str],
        *,
        compose: Callable[[list[str]], DictConfig],
        launch: Callable[..., Sequence[Any]],
    ):
        self.settings, self.compose, self.launch = settings, compose, launch
        self.folder = Path(config.hydra.sweep.dir)
        self.space = parse_space(settings.params, arguments)
        if not self.space.parameters and settings.custom_search_space is None:
            raise SpaceError(
                "hydra.sweeper.params: name something to vary, as text: `loss.beta: 0.0,0.1` or `interval(0,1)`, "
                "not as a list"
            )
        unknown = [name for name in settings.blocks if name not in self.space.parameters and name != "model.name"]
        if unknown:
            raise SpaceError(f"hydra.sweeper.blocks names {unknown[0]}, which is not among the params that are varied")
        self.base = self.plain_config(self.space.fixed)
        self.steps = self.base["trainer"]["max_steps"]
        if settings.pruner and "trainer.max_steps" in self.space.parameters:
            raise SpaceError("trainer.max_steps is varied, but pruning compares points at equal steps: leave out one")
        self.suggest_more, self.check, self.finish = (
            named(settings, key) for key in ("custom_search_space", "check", "finish")
        )

    def plain_config(self, overrides: list[str]) -> dict[str, Any]:
        """What a run with the overrides would do, without how it is watched."""
        config = self.compose(overrides)
        with open_dict(config):
            for key in ("hydra", "callback", "logger"):
                config.pop(key, None)
        return plain(config)

    def suggest(self, trial: optuna.Trial) -> dict[str, Value]:
        """The trial's point; what its slot leaves open is drawn by the study's sampler."""
        for name, parameter in self.space.parameters.items():
            parameter.suggest(name, trial)
        if self.suggest_more is not None:
            self.suggest_more(self.base, trial)
        return trial.params

    def record(self) -> dict[str, Any]:
        """What the study is about: `r1lab.analysis.ablation` needs nothing beside it and the trials."""
        s = self.settings
        return {
            "name": s.name,
            "question": s.question,
            "reported": s.reported,
            "params": {name: parameter.describe() for name, parameter in self.space.parameters.items()},
            "shared": self.space.fixed,
            "blocks": [name for name in s.blocks if name in self.space.parameters],
            "exclude": s.exclude,
            "baseline": s.baseline,
            "minimum_effect": s.minimum_effect,
            "secondary": s.secondary,
            "expected": s.expected,
            "objectives": s.objective_list,
            "seeds": s.seed_list,
            "steps": self.steps,
            "sampler": "grid" if s.is_grid else s.sampler["_target_"].rpartition(".")[2],
            "pruner": s.pruner["_target_"].rpartition(".")[2] if s.pruner else None,
            "pruner_options": {key: value for key, value in (s.pruner or {}).items() if key != "_target_"},
            CONFIG: {
                key: value
                for key, value in flat(self.base)
                if key.split(".")[0] not in _NOT_COMPARED and key not in _IMPLEMENTATIONS
            },
            "command": " ".join(["python", *sys.orig_argv[1:]]),
            "commit": commit(),
            "versions": versions(),
            "device": device_name(),
        }

    def slots(self) -> dict[str, dict[str, Value]]:
        """All that is to be run: the points of a grid, or as many as are asked for, the baseline first."""
        baseline = self.settings.baseline or {}
        for name, value in baseline.items():
            if name not in self.space.parameters:
                raise SpaceError(f"hydra.sweeper.baseline names {name}, which is not among the params that are varied")
            if not self.settings.is_grid and not self.space.parameters[name].holds(value):
                raise SpaceError(f"hydra.sweeper.baseline: {name}={value} is outside of what is varied")
        if self.settings.is_grid:
            points = self.grid()
            if not any(baseline.items() <= point.items() for point in points):
                raise SpaceError(
                    f"hydra.sweeper.baseline {baseline} is no point of the grid: add its values to the levels, and do "
                    "not exclude it"
                )
            points.sort(key=lambda point: not baseline.items() <= point.items())
            return {slot_of(point): point for point in points}
        return {str(n): dict(baseline) if n == 1 else {} for n in range(1, self.settings.n_trials + 1)}

    def grid(self) -> list[dict[str, Value]]:
        """The points of a grid without those that are left out. Raises SpaceError where those are no points of it."""
        points, exclude = self.space.grid(), self.settings.exclude
        for part in exclude:
            if not any(part.items() <= point.items() for point in points):
                raise SpaceError(f"hydra.sweeper.exclude: no point of the grid has {part}")
        return [point for point in points if not any(part.items() <= point.items() for part in exclude)]

    def run(self) -> optuna.Study:
        """Work on the study until nothing waits; then it is complete, or others have the rest."""
        slots, record = self.slots(), self.record()
        storage = open_storage(self.settings.storage)
        sampler = self.make_sampler(joins=has_study(storage, self.settings.name))
        study = open_study(
            storage,
            name=self.settings.name,
            directions=self.settings.direction_list,
            record=record,
            sampler=sampler,
        )
        queue = Queue(study, storage)
        self.points = Points(self, study, queue)
        workers: list[subprocess.Popen] = []
        share_cores(self.settings.workers)  # before the pre-flight, which measures how long a run takes
        ended = queue.show_life()
        try:
            queue.recover()
            runs = self.runs_left(queue, slots)
            if not runs:
                log.info(self.told_finished(queue, slots))
            elif self.settings.preflight:
                preflight(self, runs)
            queue.fill(slots, self.settings.seed_list, retry_failed=self.settings.retry_failed)
            workers = start_workers(self.settings.workers - 1)
            self.work(queue)
            for worker in workers:
                if code := worker.wait():
                    log.warning(f"a worker ended with status {code}; its points are run here")
            queue.fill(slots, self.settings.seed_list)
            self.work(queue)
        finally:
            ended.set()
            queue.release_own()
            stop(workers)
        return study

    def runs_left(self, queue: Queue, slots: Mapping[str, Any]) -> list[int]:
        """The number of runs of each point that is not finished with every seed."""
        held, seeds = queue.held(), self.settings.seed_list
        finished = {slot: len(lacks(trial, seeds)) for slot, trial in held.items() if trial.state.is_finished()}
        if self.settings.retry_failed:
            finished |= {slot: len(seeds) for slot, trial in held.items() if ERROR in trial.user_attrs}
        return [runs for runs in (finished.get(slot, len(seeds)) for slot in slots) if runs]

    def told_finished(self, queue: Queue, slots: Mapping[str, Any]) -> str:
        held = queue.held()
        if failed := sum(ERROR in held[slot].user_attrs for slot in slots):
            again = "hydra.sweeper.retry_failed=true runs those again"
            return f"{len(slots)} points are done, {failed} of them failed; {again}"
        return f"all {len(slots)} points are finished"

    def make_sampler(self, *, joins: bool) -> optuna.samplers.BaseSampler:
        if self.settings.is_grid:
            return optuna.samplers.RandomSampler()  # never asked: each point is queued with all of its parameters
        options = dict(self.settings.sampler)
        if joins and options.get("seed") is not None:
            # A process that joins or goes on must not draw again what was drawn before.
            options["seed"] = (options["seed"] * 1_000_003 + os.getpid()) % 2**31
        return instantiate(options, _convert_="all")

    def work(self, queue: Queue) -> None:
        """Run points until none waits."""
        while True:
            queue.recover()
            self.refuse_too_many_failures(queue)
            claims = (queue.claim() for _ in range(self.settings.batch))
            trials = [trial for trial in claims if trial is not None]
            if trials:
                self.points.run(trials)
            elif queue.has_nameless():
                time.sleep(1)  # whose it is will be told at once, or it is released as one whose process was killed
            else:
                return

    def refuse_too_many_failures(self, queue: Queue) -> None:
        """Raises SweepError for more failed points than are borne, or where there is nothing but them."""
        trials, most = queue.held().values(), self.settings.max_failures
        errors = [trial.user_attrs[ERROR] for trial in trials if ERROR in trial.user_attrs]
        if errors and (len(errors) > most or len(errors) == len(trials)):
            bound = (
                f"more than hydra.sweeper.max_failures={most}"
                if len(errors) > most
                else "all there are in hydra.sweeper"
            )
            raise SweepError(
                f"{len(errors)} points failed, {bound} (retry_failed=true there runs them again, a larger max_failures "
                f"goes on without them); the last one: {errors[-1]}"
            )


def sweep(
    settings: Mapping[str, Any],
    config: DictConfig,
    arguments: Sequence[str],
    compose: Callable[[list[str]], DictConfig],
    launch: Callable[..., Sequence[Any]],
) -> optuna.Study:
    """Run a sweep, or this process's part of it; see `Sweep`."""
    made = Sweep(Settings(**settings), config, arguments, compose=compose, launch=launch)
    with stopped_in_a_line(made.settings.storage):
        study = made.run()
    if made.finish is not None:
        made.finish(made.settings.storage, made.settings.name)
    return study
