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
    retry_failed: bool
    preflight: bool
    check: str | None
    finish: str | None
    seed_list: list[int] = field(init=False)
    objective_list: list[str] = field(init=False)
    direction_list: list[str] = field(init=False)

    def __post_init__(self):
        self._refuse_wrong_types()
        as_list = {
            "seed_list": list(range(1, self.seeds + 1)) if isinstance(self.seeds, int) else list(self.seeds),
            "objective_list": _listed(self.objectives),
            "direction_list": _listed(self.directions),
            "blocks": _listed(self.blocks),
            "secondary": _listed(self.secondary),
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

    def _refuse_wrong_types(self) -> None:
        for name, least in (("workers", 1), ("batch", 1), ("n_trials", 1), ("max_failures", 0)):
            if not _is_int(getattr(self, name)) or getattr(self, name) < least:
                raise ValueError(f"hydra.sweeper.{name} must be at least {least}, got {getattr(self, name)}")
        if not _is_int(self.seeds) and not (isinstance(self.seeds, list) and all(map(_is_int, self.seeds))):
            raise ValueError(f"hydra.sweeper.seeds must be a number or a list of numbers, got {self.seeds}")
        if not isinstance(self.minimum_effect, (int, float, type(None))):
            raise ValueError(f"hydra.sweeper.minimum_effect must be a number or null, got {self.minimum_effect}")
        if wrong := [d for d in _listed(self.directions) if d not in ("maximize", "minimize")]:
            raise ValueError(f"hydra.sweeper.directions: each is maximize or minimize, got {wrong[0]}")
        if not isinstance(self.exclude, list):
            raise ValueError(f"hydra.sweeper.exclude must be a list of points, got {self.exclude}")

    def _refuse_too_few_seeds(self) -> None:
        """The signed-rank test of n pairs gives 0.5 ** n at least, and after the last seed nothing is left to save."""
        if not self.pruner or not self.pruner["_target_"].endswith("WilcoxonPruner"):
            return
        if not 0 < self.pruner["p_threshold"] < 1:
            raise ValueError(
                f"hydra.sweeper.pruner.p_threshold must be within (0, 1), got {self.pruner['p_threshold']}"
            )
        needed = math.ceil(-math.log2(self.pruner["p_threshold"])) + 1
        if len(self.seed_list) < needed:
            raise ValueError(
                f"hydra/sweeper/pruner=wilcoxon compares runs of the same seed and could never prune with "
                f"{len(self.seed_list)}: set hydra.sweeper.seeds={needed} or more, or another pruner"
            )

    @property
    def is_grid(self) -> bool:
        return self.sampler["_target_"].endswith("GridSampler")


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
