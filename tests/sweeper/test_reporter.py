import math
import os

import optuna
import pytest

from r1lab.sweeper.reporter import PRUNED, Reporter
from r1lab.sweeper.study import open_storage
from tests.sweeper.fake import group

STEPS = 10


@pytest.fixture(params=["journal.log", "sqlite:///study.db"])
def storage(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return request.param


@pytest.fixture
def journal(tmp_path):
    return str(tmp_path / "journal.log")


def study_at(storage):
    return optuna.create_study(
        study_name="study", storage=open_storage(storage), direction="maximize", load_if_exists=True
    )


def reporter(storage, trial, pruner, seed_index=0, seeds=3, steps=STEPS):
    return Reporter(
        storage=storage,
        study="study",
        trial=trial.number,
        pruner=pruner,
        seed_index=seed_index,
        seeds=seeds,
        steps=steps,
    )


def finished(storage, curves, pruner=None, seeds=3):
    """Trials that reported these curves (a value for each seed's each moment), complete."""
    study = study_at(storage)
    for curve in curves:
        trial = study.ask()
        for index in range(seeds):
            report = reporter(storage, trial, pruner, index, seeds)
            for step, value in curve[index] if isinstance(curve, dict) else curve:
                report(value, step)
        study.tell(trial, 1.0)
    return study


def stored(storage, number):
    return study_at(storage).trials[number]


def test_seed_and_step_make_the_moment(storage):
    trial = study_at(storage).ask()
    for index in range(3):
        report = reporter(storage, trial, None, index)
        assert report(0.1 * index, 5) is False and report(0.2, 10) is False
    assert stored(storage, 0).intermediate_values == {5: 0, 10: 0.2, 15: 0.1, 20: 0.2, 25: 0.2, 30: 0.2}


def test_the_median_prunes_in_another_process(storage):
    """With no default pruner: it goes with the run."""
    median = group("pruner", "median")
    study = finished(storage, [[(5, 0.5), (10, 0.6)]] * 4)
    bad, good = study.ask(), study.ask()
    if not (child := os.fork()):
        verdicts = [
            reporter(storage, good, median)(0.7, 5),
            reporter(storage, bad, median)(0.1, 5),
            reporter(storage, bad, None)(0.1, 5),
        ]
        os._exit(0 if verdicts == [False, True, False] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert stored(storage, bad.number).user_attrs[PRUNED] == {"seed_index": 0, "step": 5}
    assert PRUNED not in stored(storage, good.number).user_attrs


def test_a_late_seed_can_be_pruned_at_an_early_step(journal):
    study = finished(journal, [[(5, 0.5), (10, 0.6)]] * 4)
    trial, median = study.ask(), group("pruner", "median")
    assert not reporter(journal, trial, median)(0.5, 5)
    # The best so far counts for the median: what a seed begins with does not undo a good seed before.
    assert not reporter(journal, trial, median, 1)(0.4, 5)
    worse = study.ask()
    assert reporter(journal, worse, median, 1)(0.4, 5)
    assert stored(journal, worse.number).user_attrs[PRUNED] == {"seed_index": 1, "step": 5}


@pytest.mark.parametrize("index, pruned", [(0, True), (1, True), (2, False)])
def test_nothing_is_pruned_where_nothing_is_left_to_do(journal, index, pruned):
    study = finished(journal, [[(5, 0.5), (10, 0.6)]] * 4)
    trial = study.ask()
    assert reporter(journal, trial, group("pruner", "median"), index)(0.1, STEPS) is pruned
    assert (PRUNED in stored(journal, trial.number).user_attrs) is pruned
    assert stored(journal, trial.number).intermediate_values == {index * STEPS + STEPS: 0.1}


def test_what_is_not_a_number_is_not_reported(journal):
    trial = study_at(journal).ask()
    for value in (math.nan, math.inf, -math.inf):
        assert reporter(journal, trial, group("pruner", "median"))(value, 5) is False
    assert stored(journal, 0).intermediate_values == {}


def test_wilcoxon_pairs_whole_runs_by_their_seed(journal):
    wilcoxon, seeds = group("pruner", "wilcoxon"), 8
    finished(journal, [{i: [(5, 9.0), (10, 0.5 + i / 100)] for i in range(seeds)}], wilcoxon, seeds)
    assert stored(journal, 0).intermediate_values == {i: 0.5 + i / 100 for i in range(seeds)}
    study = study_at(journal)
    worse, better = study.ask(), study.ask()
    verdicts = []
    for index in range(seeds):
        assert reporter(journal, worse, wilcoxon, index, seeds)(0.0, 5) is False  # no whole run
        verdicts.append(reporter(journal, worse, wilcoxon, index, seeds)(0.4 + index / 99, 10))
        assert reporter(journal, better, wilcoxon, index, seeds)(0.6 + index / 99, 10) is False
    # One-sided p of n worse pairs is 1 / 2^n: below 0.1 from 4 on.
    assert verdicts == [False] * 3 + [True] * 4 + [False]  # at the last nothing is left


@pytest.mark.parametrize("pruner", ["asha", "hyperband"])
def test_halving_prunes(journal, pruner):
    """Rungs are at 10, 30, 90, ... steps; what is not among the best third does not pass one."""
    config, steps = group("pruner", pruner), 40
    study = study_at(journal)

    def run(trial, level):
        for index in range(3):
            report = reporter(journal, trial, config, index, steps=steps)
            for step in range(10, steps + 1, 10):
                if report(level, step):
                    return index * steps + step
        study.tell(trial, level)
        return None

    ends = [run(study.ask(), level) for level in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.95)]
    assert ends[0] is None and ends[-1] is None
    assert sum(end is not None for end in ends) >= 4
    assert {end for end in ends if end} <= {10, 30, 90}


def test_every_pruner_of_conf_can_be_made(journal):
    from r1lab.entry import CONF

    trial = study_at(journal).ask()
    for file in (CONF / "hydra/sweeper/pruner").glob("*.yaml"):
        assert reporter(journal, trial, group("pruner", file.stem))(0.5, 5) is False
