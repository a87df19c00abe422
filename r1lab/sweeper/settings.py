"""The settings of a sweep, checked."""

import math
from dataclasses import dataclass, field
from typing import Any

from r1lab.sweeper.space import Value

DIRECTIONS = ("higher", "lower", "equal")  # than the baseline


@dataclass(frozen=True)
class Settings:
    """The values of conf/hydra/sweeper/r1lab_optuna.yaml, where each is explained."""

    name: str
    question: str
    reported: str | None
    params: dict[str, Any]
    custom_search_space: str | None
    sampler: dict[str, Any]
    pruner: dict[str, Any] | None
    n_trials: int
    seeds: int | list[int]
    objectives: str | list[str]
    directions: str | list[str]
    baseline: dict[str, Value] | None
    exclude: list[dict[str, Value]]
    blocks: list[str]
    minimum_effect: float | None
    secondary: list[str]
    expected: list[dict[str, Any]]
    storage: str
    workers: int
    batch: int
    max_failures: int
    preflight: bool
    check: str | None
    finish: str | None
    seed_list: list[int] = field(init=False)
    objective_list: list[str] = field(init=False)
    direction_list: list[str] = field(init=False)

    def __post_init__(self):
        as_list = {
            "seed_list": list(range(1, self.seeds + 1)) if isinstance(self.seeds, int) else list(self.seeds),
            "objective_list": [self.objectives] if isinstance(self.objectives, str) else list(self.objectives),
            "direction_list": [self.directions] if isinstance(self.directions, str) else list(self.directions),
        }
        for key, value in as_list.items():
            object.__setattr__(self, key, value)
        if not self.seed_list or len(set(self.seed_list)) < len(self.seed_list):
            raise ValueError(
                f"hydra.sweeper.seeds must be a number above 0 or a list of different seeds, got {self.seeds}"
            )
        if len(self.objective_list) != len(self.direction_list):
            raise ValueError(
                f"hydra.sweeper.directions={self.directions} must be as many as the objectives, {self.objective_list}"
            )
        if len(self.objective_list) > 1 and self.pruner:
            raise ValueError(
                "hydra.sweeper.pruner: pruning needs a single objective, which Optuna cannot do for several; "
                "set hydra/sweeper/pruner=none, or name one objective"
            )
        if self.is_grid and self.custom_search_space is not None:
            raise ValueError(
                "hydra.sweeper.custom_search_space adds parameters that a grid cannot enumerate; "
                "set hydra/sweeper/sampler=random or tpe"
            )
        if self.exclude and not self.is_grid:
            raise ValueError("hydra.sweeper.exclude leaves out points of a grid; set hydra/sweeper/sampler=grid")
        if self.pruner and not self.objective_list[0].startswith("validation/"):
            raise ValueError(
                f"hydra.sweeper.pruner compares what a run measures on its way, and objective={self.objectives} comes "
                "after its last step: name a metric of the validation, or set hydra/sweeper/pruner=none"
            )
        for entry in self.expected:
            keys = {"point", "direction", "source"} <= entry.keys() <= {"point", "direction", "source", "measure"}
            if not keys or entry["direction"] not in DIRECTIONS:
                raise ValueError(
                    "hydra.sweeper.expected: an entry is {point: {...}, direction: higher|lower|equal, source: ...} "
                    f"and a measure where it is not the objective; got {entry}"
                )
        self._refuse_too_few_seeds()
        for name in ("workers", "batch", "n_trials"):
            if getattr(self, name) < 1:
                raise ValueError(f"hydra.sweeper.{name} must be at least 1, got {getattr(self, name)}")

    def _refuse_too_few_seeds(self) -> None:
        """The signed-rank test of n pairs gives 0.5 ** n at least, and after the last seed nothing is left to save."""
        if not self.pruner or not self.pruner["_target_"].endswith("WilcoxonPruner"):
            return
        needed = math.ceil(-math.log2(self.pruner["p_threshold"])) + 1
        if len(self.seed_list) < needed:
            raise ValueError(
                f"hydra/sweeper/pruner=wilcoxon compares runs of the same seed and could never prune with "
                f"{len(self.seed_list)}: set hydra.sweeper.seeds={needed} or more, or another pruner"
            )

    @property
    def is_grid(self) -> bool:
        return self.sampler["_target_"].endswith("GridSampler")
