"""From inside a run: report what was measured to the study, and hear whether the point is to be pruned.

The pruner is not kept in a study's storage, so its config travels with the run: any process that reaches the storage
can prune.
"""

import math
from collections.abc import Mapping
from typing import Any

import optuna
from hydra.utils import instantiate
from optuna.pruners import WilcoxonPruner

from r1lab.sweeper.study import open_storage

PRUNED = "pruned"  # the trial's user attribute


class Reporter:
    """Reports one seed's run of a point.

    Args:
        storage, study, trial: where the point is, the trial by its number.
        pruner: config of an Optuna pruner; None: none.
        seed_index: of the run among the point's seeds, from 0. seeds: how many there are.
        steps: training steps of a run: seed `i` at step `s` is reported at `i * steps + s`.
    """

    def __init__(
        self,
        *,
        storage: str,
        study: str,
        trial: int,
        pruner: Mapping[str, Any] | None,
        seed_index: int,
        seeds: int,
        steps: int,
    ):
        made = instantiate(pruner, _convert_="all") if pruner else optuna.pruners.NopPruner()
        self.storage = open_storage(storage)
        sampler = optuna.samplers.RandomSampler()  # never asked
        self.study = optuna.load_study(study_name=study, storage=self.storage, sampler=sampler, pruner=made)
        # A trial's id is the storage's own; its number counts within the study.
        self.trial_id = self.storage.get_trial_id_from_study_id_trial_number(self.study._study_id, trial)
        self.seed_index, self.is_last, self.steps = seed_index, seed_index == seeds - 1, steps
        # Wilcoxon's test pairs whole runs of the same seed, not moments of them.
        self.by_seed = isinstance(made, WilcoxonPruner)

    def __call__(self, value: float, step: int) -> bool:
        """Report the objective after training step `step` (from 1) of this run; True when the point is to be pruned."""
        if not math.isfinite(value) or (self.by_seed and step < self.steps):
            return False
        at = self.seed_index if self.by_seed else self.seed_index * self.steps + step
        self.storage.set_trial_intermediate_value(self.trial_id, at, value)
        if self.is_last and step == self.steps:
            return False  # nothing is left that could be saved
        prune = bool(self.study.pruner.prune(self.study, self.storage.get_trial(self.trial_id)))
        if prune:
            self.storage.set_trial_user_attr(self.trial_id, PRUNED, {"seed_index": self.seed_index, "step": step})
        return prune
