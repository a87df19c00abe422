"""Sweeps whose runs are a function: what the sweeper does, without a training."""

import importlib
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from r1lab.entry import CONF
from r1lab.sweeper.reporter import Reporter
from r1lab.sweeper.settings import Settings
from r1lab.sweeper.sweeper import Sweep

STEPS = 4
BASE = {
    "seed": 1,
    "objective": "validation/pass_at_1",
    "trainer": {"max_steps": STEPS, "val_check_interval": 2},
    "rollout": {"group_size": 4},
}


def group(name: str, choice: str) -> dict[str, Any] | None:
    """A sampler's or pruner's config."""
    values = yaml.safe_load((CONF / f"hydra/sweeper/{name}/{choice}.yaml").read_text())
    return values if "_target_" in values else None


def settings(folder: Path, *, sampler: str = "random", pruner: str = "none", **given: Any) -> dict[str, Any]:
    """The settings of conf/hydra/sweeper/r1lab_optuna.yaml, without pre-flight and analysis, with the given ones."""
    values = yaml.safe_load((CONF / "hydra/sweeper/r1lab_optuna.yaml").read_text())
    for key in ("defaults", "_target_", "_recursive_", "_convert_"):
        del values[key]
    return values | {
        "name": "study",
        "sampler": group("sampler", sampler),
        "pruner": group("pruner", pruner),
        "objectives": BASE["objective"],
        "storage": str(folder / "journal.log"),
        "params": {"x": "interval(0,1)"},
        "seeds": 1,
        "preflight": False,
        "finish": None,
    } | given  # fmt: skip


class Run:
    """What a fake run sees: its overrides, and the way to report."""

    def __init__(self, overrides: list[str]):
        self.lines = overrides
        parsed = OverridesParser.create().parse_overrides(overrides)
        self.values = {override.get_key_element(): override.value() for override in parsed}
        self.seed = self.values["seed"]

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def report(self, value: float, step: int) -> bool:
        """As the callback does, in whatever process this is."""
        config = dict(self.values["+callback.pruning"]["report"])
        assert config.pop("_target_") == "r1lab.sweeper.reporter.Reporter" and config.pop("_recursive_") is False
        return Reporter(**config)(value, step)


def launcher(objective: Callable[[Run], Any], seen: list[Run] | None = None) -> Callable[..., list[JobReturn]]:
    """A Hydra launcher of runs that call `objective`; an Exception of its is the run's."""

    def launch(jobs: list[list[str]], *, initial_job_idx: int) -> list[JobReturn]:
        returned = []
        for overrides in jobs:
            job, run = JobReturn(overrides=overrides), Run(overrides)
            if seen is not None:
                seen.append(run)
            try:
                job.return_value, job.status = objective(run), JobStatus.COMPLETED
            except Exception as error:
                job.return_value, job.status = error, JobStatus.FAILED
            returned.append(job)
        return returned

    return launch


def make(
    folder: Path,
    objective: Callable[[Run], Any],
    *,
    seen: list[Run] | None = None,
    base: Mapping[str, Any] = BASE,
    arguments: tuple[str, ...] = (),
    **given: Any,
) -> Sweep:
    """A sweep in `folder`, whose runs call `objective`."""
    return Sweep(
        Settings(**settings(folder, **given)),
        OmegaConf.create({"hydra": {"sweep": {"dir": str(folder / "runs")}}}),
        arguments,
        compose=lambda overrides: OmegaConf.create({**base, "hydra": {}, "callback": {}, "logger": {}}),
        launch=launcher(objective, seen),
    )


def sweep(*args: Any, **given: Any) -> Any:
    """As `make`, run to its end: the study."""
    return make(*args, **given).run()


def states(study: Any) -> list[str]:
    return [trial.state.name for trial in study.trials]


def command_line(monkeypatch: Any, *arguments: str, module: str = "r1lab.train", asked: str | None = "0") -> None:
    """`python -m r1lab.train`, or another command, with the arguments, in this process."""
    main = importlib.import_module("r1lab.pipeline.__main__" if module == "r1lab.pipeline" else module).main
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # put back behind the test, for the command sets it
    if asked is None:
        monkeypatch.delenv("HYDRA_FULL_ERROR")
    else:
        monkeypatch.setenv("HYDRA_FULL_ERROR", asked)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    root, names = logging.getLogger(), ("r1lab", "r1lab.sweeper")
    before = root.handlers[:], root.level, [logging.getLogger(name).level for name in names]
    try:
        main()
    finally:  # what Hydra configured, which writes to the streams of this test
        root.handlers[:], root.level, levels = before
        for name, level in zip(names, levels, strict=True):
            logging.getLogger(name).setLevel(level)
