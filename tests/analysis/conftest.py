"""Synthetic sweeps, written by Optuna itself in the form in which the sweeper notes them."""

from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

SCORE = "validation/pass_at_1"


class SweepWriter:
    """write_sweep(folder, {"loss.beta": [0.0, 0.01]}, seeds=[1, 2]).trial({"loss.beta": 0.0}, {1: 0.5, 2: 0.6})"""

    def __init__(self, folder, params, *, seeds=(1, 2, 3), steps=100, directions=("maximize",), storage=None, **record):
        self.folder = Path(folder)
        self.params = {
            name: p if isinstance(p, dict) else {"kind": "choice", "levels": p} for name, p in params.items()
        }
        self.seeds, self.steps = list(seeds), steps
        if storage is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            backend = optuna.storages.journal.JournalFileBackend(str(self.folder / "journal.log"))
            storage = optuna.storages.JournalStorage(backend)
        self.study = optuna.create_study(study_name=self.folder.name, storage=storage, directions=directions)
        self.record = {
            "name": self.folder.name,
            "question": "Does it matter?",
            "reported": None,
            "baseline": None,
            "objectives": [SCORE],
            "seeds": self.seeds,
            "steps": steps,
            "params": self.params,
            "blocks": [],
            "sampler": "grid",
            "pruner": None,
            "command": "python -m r1lab.train -m +sweep=example",
            "commit": "0a1b2c3d4e5f",
            "versions": {"torch": "2.13.0"},
            "device": "a processor, 2 threads",
            "minimum_effect": None,
        } | record
        self.study.set_user_attr("sweep", self.record)

    def distribution(self, name):
        p = self.params[name]
        if p.get("levels"):
            return CategoricalDistribution(p["levels"])
        kind = IntDistribution if p["kind"] == "int_interval" else FloatDistribution
        return kind(p["low"], p["high"], log=bool(p.get("log")))

    def note(self, value, curve=(), **more):
        """What the sweeper notes of a seed."""
        scores = {
            "pass_at_1": value if isinstance(value, float) else value[0],
            "format": 0.9,
            "completion_length": 20.0,
        }
        note = {"value": value, "seconds": 60.0, "train_seconds": 45.0, "steps": self.steps, "run": "runs/example"}
        note |= {"before": {"heldout": scores | {"pass_at_1": 0.1}}, "after": {"heldout": scores}}
        if len(curve):
            steps = np.linspace(self.steps / len(curve), self.steps, len(curve)).astype(int).tolist()
            note["curve"] = {"step": steps, SCORE: list(map(float, curve)), "loss/kl": [0.01] * len(curve)}
        return note | more

    def trial(self, params, seeds, state="COMPLETE", *, intermediate=None, **attrs):
        """seeds: {seed: value, or note}."""
        notes = {seed: n if isinstance(n, dict) else self.note(n) for seed, n in seeds.items()}
        values = np.mean([np.atleast_1d(n["value"]) for n in notes.values()], axis=0).tolist() if notes else None
        self.study.add_trial(
            create_trial(
                state=TrialState[state],
                values=values if state == "COMPLETE" else None,
                params=params,
                distributions={name: self.distribution(name) for name in params},
                intermediate_values=intermediate or {},
                user_attrs={f"seed/{seed}": n for seed, n in notes.items()} | attrs,
            )
        )


@pytest.fixture(scope="session")
def write_sweep():
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return SweepWriter


@pytest.fixture
def beta_sweep(write_sweep, tmp_path):
    """Three levels of beta, three seeds. Differences to beta=0.001, whose seeds are .5 .6 .7: of 0: .1 .2 .3; of 0.1:
    -.2 three times."""
    writer = write_sweep(
        tmp_path / "beta", {"loss.beta": [0.0, 0.001, 0.1]}, baseline={"loss.beta": 0.001}, reported="no effect"
    )
    writer.trial({"loss.beta": 0.001}, {1: 0.5, 2: 0.6, 3: 0.7})
    writer.trial({"loss.beta": 0.1}, {1: 0.3, 2: 0.4, 3: 0.5})
    writer.trial({"loss.beta": 0.0}, {1: 0.6, 2: 0.8, 3: 1.0})
    return writer
