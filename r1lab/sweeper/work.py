"""The points of a sweep as a queue in the study's storage, shared by any number of processes and machines.

Every point has a slot: in a grid its parameters, else a number. A slot is queued as a waiting trial and claimed by
whoever sets it running first, so nothing is counted twice and the total is reached exactly, however many processes
work on the study. A trial whose process died is failed and its slot queued again, with the same parameters. One that
finished with fewer seeds than are asked for now is followed by a trial that goes on with it.
"""

import json
import math
import os
import socket
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage
from optuna.trial import FrozenTrial, TrialState

from r1lab.sweeper.processes import end_without_parent, started
from r1lab.sweeper.results import GOES_ON, SEED, seed_key

SLOT, WORKER, ERROR, ABANDONED = "slot", "worker", "error", "abandoned"
BEAT = "beat/"  # study attribute of a worker: when it last showed life
BEAT_SECONDS, DEAD_SECONDS = 60, 600
_CLAIM_SECONDS = 60  # from claiming a trial to having written whose it is, far more than it takes
_LOOK_SECONDS = 2


def slot_of(point: Mapping[str, Any]) -> str:
    return json.dumps(dict(point), sort_keys=True)


def is_live(trial: FrozenTrial) -> bool:
    """Whether a trial holds its slot: it waits, runs, is done, or failed by itself rather than by its process's end."""
    return trial.state != TrialState.FAIL or ABANDONED not in trial.user_attrs


def lacks(trial: FrozenTrial, seeds: Sequence[int]) -> list[int]:
    """The seeds that a finished trial was not run with; a pruned or failed one has no further seed."""
    done = trial.state == TrialState.COMPLETE
    return [seed for seed in seeds if done and seed_key(seed) not in trial.user_attrs]


class Queue:
    """The study's waiting trials.

    Args:
        study: whose sampler draws what a queued point leaves open.
        storage: of the study.
    """

    def __init__(self, study: optuna.Study, storage: BaseStorage):
        self.study, self.storage, self.study_id = study, storage, study._study_id
        self.worker = {"host": socket.gethostname(), "pid": os.getpid(), "started": started(os.getpid())}

    def trials(self) -> list[FrozenTrial]:
        return self.storage.get_all_trials(self.study_id, deepcopy=False)

    def _running(self) -> list[FrozenTrial]:
        return [t for t in self.trials() if t.state == TrialState.RUNNING]

    def held(self) -> dict[str, FrozenTrial]:
        """Slot -> the newest live trial that holds it."""
        return {trial.user_attrs.get(SLOT): trial for trial in self.trials() if is_live(trial)}

    def fill(
        self, slots: Mapping[str, Mapping[str, Any]], seeds: Sequence[int] = (), *, retry_failed: bool = False
    ) -> None:
        """Queue each slot (its name -> the parameters that are settled) that no live trial holds, and one that was
        finished without some of the seeds or, with `retry_failed`, has failed."""
        held = self.held()
        for slot, point in slots.items():
            if slot not in held:
                self._queue(slot, point)
            elif lacks(held[slot], seeds) or (retry_failed and ERROR in held[slot].user_attrs):
                self._queue(slot, {**point, **held[slot].params}, {GOES_ON: held[slot].number})

    def _queue(self, slot: str, point: Mapping[str, Any], more: Mapping[str, Any] = {}) -> None:
        self.study.enqueue_trial(dict(point), user_attrs={SLOT: slot, **more})

    def claim(self) -> optuna.Trial | None:
        """Set the next waiting trial running, as this process's; None when none waits."""
        for waiting in self.storage.get_all_trials(self.study_id, deepcopy=False, states=(TrialState.WAITING,)):
            with suppress(UpdateFinishedTrialError):
                if self.storage.set_trial_state_values(waiting._trial_id, TrialState.RUNNING):
                    self.storage.set_trial_user_attr(waiting._trial_id, WORKER, self.worker)
                    if not self._is_double(waiting):
                        return optuna.Trial(self.study, waiting._trial_id)
                    self._abandon(waiting)
        return None

    def _is_double(self, trial: FrozenTrial) -> bool:
        """Whether an older trial is the same: two processes that began at the same time queued it twice."""
        what = [trial.user_attrs.get(key) for key in (SLOT, GOES_ON)]
        return any(
            other.number < trial.number
            and is_live(other)
            and [other.user_attrs.get(k) for k in (SLOT, GOES_ON)] == what
            for other in self.trials()
        )

    def _abandon(self, trial: FrozenTrial) -> bool:
        """Fail a trial without a word about its point; False where another process was faster."""
        try:
            self.storage.set_trial_user_attr(trial._trial_id, ABANDONED, True)
            return self.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        except UpdateFinishedTrialError:
            return False

    def release(self, trials: Iterable[FrozenTrial]) -> None:
        """Give trials up that were stopped in the middle, and queue their points again."""
        for trial in trials:
            if self._abandon(trial):
                # Stopped early, it has not taken all that was queued for it.
                # Seeds that it had finished, be they its own or taken over, are not run again.
                done = any(key.startswith(SEED) for key in trial.user_attrs)
                more = {GOES_ON: trial.number} if done else {}
                more = more or {key: trial.user_attrs[key] for key in (GOES_ON,) if key in trial.user_attrs}
                self._queue(trial.user_attrs[SLOT], trial.system_attrs["fixed_params"] | trial.params, more)

    def release_own(self) -> None:
        """What this process has not finished when it ends."""
        self.release(t for t in self._running() if t.user_attrs.get(WORKER) == self.worker)

    def recover(self) -> int:
        """Release the running trials of processes that are no more; how many there were."""
        dead = [t for t in self._running() if not self._is_alive(t)]
        self.release(dead)
        return len(dead)

    def has_nameless(self) -> bool:
        """Whether a trial was claimed by a process that has not written its name."""
        return any(WORKER not in trial.user_attrs for trial in self._running())

    def _is_alive(self, trial: FrozenTrial) -> bool:
        worker = trial.user_attrs.get(WORKER)
        if worker is None:  # claimed a moment ago, or killed before it wrote its name
            return datetime.now() - trial.datetime_start < timedelta(seconds=_CLAIM_SECONDS)
        if worker["host"] == self.worker["host"]:
            return started(worker["pid"]) == worker["started"]
        beat = self.study.user_attrs.get(f"{BEAT}{worker['host']}/{worker['pid']}", 0)
        return time.time() - beat < DEAD_SECONDS

    def show_life(self) -> threading.Event:
        """Until the returned event is set, tell other machines every minute that this process lives, and end with the
        process that started it.

        A journal file is for one machine, where processes are seen; it is committed, and does not grow by this.
        """
        done = threading.Event()
        threading.Thread(target=self._live, args=(done,), daemon=True).start()
        return done

    def _live(self, done: threading.Event) -> None:
        name = f"{BEAT}{self.worker['host']}/{self.worker['pid']}"
        alone, told = isinstance(self.storage, JournalStorage), -math.inf
        while not done.is_set():
            if not alone and time.monotonic() - told > BEAT_SECONDS:
                with suppress(StorageInternalError):  # the database is away for a moment
                    self.study.set_user_attr(name, time.time())
                    told = time.monotonic()
            end_without_parent()
            done.wait(_LOOK_SECONDS)
