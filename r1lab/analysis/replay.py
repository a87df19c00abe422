"""What a pruner would have saved in a sweep that ran without one: its curves replayed in many orders.

Two searches choose different points, so that one run of each says little about pruning. The same points, with and
without, do; but a search that had pruned would have gone on from elsewhere.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from r1lab.analysis.number import interval, number
from r1lab.analysis.sweep import Sweep, SweepError
from r1lab.metric.mean_interval import mean_interval

_ORDERS = 100
# Pruners that cannot be replayed, and why.
_OTHER = {
    "PatientPruner": "wraps another pruner: replay that one",
    "WilcoxonPruner": "compares whole runs of the same seed, and curves are replayed step after step",
}


@dataclass(frozen=True)
class Replay:
    """Of one order of the points: the share of the steps that was saved, and how much worse the best point left is."""

    saved: float
    lost: float


@dataclass(frozen=True)
class Replayed:
    """Over many orders: the means of `Replay`, and a sentence with all of it."""

    saved: float
    lost: float
    told: str


def replay_of(sweep: Sweep, unpruned: Sweep) -> Replayed | None:
    """The pruner of a sweep over the curves of another one; None where there is none to replay."""
    name, options = sweep.record.get("pruner"), sweep.record.get("pruner_options")
    if not name or name in _OTHER or options is None or unpruned.record.get("pruner") or len(_full(unpruned)) < 2:
        return None
    return replayed(unpruned, name, options)


def replayed(unpruned: Sweep, name: str, options: Mapping[str, Any]) -> Replayed:
    """What a pruner would have saved and lost in a sweep that ran without one.

    Args:
        name, options: of a class of `optuna.pruners`, and its arguments.

    Raises:
        SweepError: for an unknown pruner, arguments it does not take, one that prunes everything, a sweep that was
            pruned, whose objective is not of the validation, or that has one curve.
    """
    if name in _OTHER:
        raise SweepError(f"{name} {_OTHER[name]}")
    known = sorted(set(optuna.pruners.__all__) - {"BasePruner", *_OTHER})
    if name not in known:
        raise SweepError(f"{name} is no pruner of Optuna: {', '.join(known)}")
    trials = _full(unpruned)
    if pruner := unpruned.record.get("pruner"):
        raise SweepError(f"{unpruned.name} was pruned by {pruner}: a replay needs a sweep that ran without a pruner")
    if len(unpruned.objectives) > 1 or not unpruned.objectives[0].startswith("validation/"):
        told = ", ".join(unpruned.objectives)
        raise SweepError(f"{unpruned.name} has no curves of {told}: a pruner needs one objective, of the validation")
    if len(trials) < 2:
        raise SweepError(f"{unpruned.name} has {len(trials)} full curves: a pruner compares at least two points")
    maximize = unpruned.maximize(unpruned.objectives[0])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            found = [replay(trials, name, options, maximize=maximize, seed=seed) for seed in range(_ORDERS)]
    except SweepError:
        raise
    except (TypeError, ValueError) as error:
        raise SweepError(f"{name} with {dict(options)}: {error}") from error
    low, high = np.percentile([one.saved for one in found], [2.5, 97.5])
    kept = np.mean([one.lost == 0 for one in found])
    lost = mean_interval([[one.lost for one in found]])
    saved = float(np.mean([one.saved for one in found]))
    told = (
        f"{name} replayed over the {len(trials)} full curves of {unpruned.name}, in {_ORDERS} orders: "
        f"{saved:.0%} of the steps saved ({low:.0%} to {high:.0%}); the best point is kept in {kept:.0%} of them, and "
        f"the best one left is worse by {interval(lost) if lost.sd else number(lost.mean)}."
    )
    return Replayed(saved, lost.mean, told)


def _full(sweep: Sweep) -> list[FrozenTrial]:
    trials = sweep.study.get_trials(deepcopy=False)
    return [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.intermediate_values]


def replay(
    trials: Sequence[FrozenTrial], pruner: str, options: Mapping[str, Any], *, maximize: bool, seed: int
) -> Replay:
    """Report finished trials to a pruner, one after the other in a random order, as a sweep of one process would.

    Args:
        trials: with their intermediate values at `seed index x steps + step`. pruner, options: of `optuna.pruners`.

    Raises:
        SweepError: every trial was pruned.
    """
    direction = "maximize" if maximize else "minimize"
    made = getattr(optuna.pruners, pruner)(**options)
    study = optuna.create_study(direction=direction, pruner=made, sampler=optuna.samplers.RandomSampler(seed=0))
    used = total = 0
    for number_ in np.random.default_rng(seed).permutation(len(trials)):
        trial, asked = trials[number_], study.ask()
        last = max(trial.intermediate_values)
        total, pruned = total + last, False
        for step, value in sorted(trial.intermediate_values.items()):
            asked.report(value, step)
            if step < last and asked.should_prune():
                pruned = True
                break
        used += step
        study.tell(asked, None if pruned else trial.value, state=TrialState.PRUNED if pruned else TrialState.COMPLETE)
    if not any(trial.state == TrialState.COMPLETE for trial in study.get_trials(deepcopy=False)):
        raise SweepError(f"{pruner} with {dict(options)} prunes every point: none is left to compare")
    sign = 1 if maximize else -1
    best = max(sign * trial.value for trial in trials)
    return Replay(1 - used / total, best - sign * study.best_value)
