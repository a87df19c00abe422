import logging

import pytest
from optuna.trial import TrialState

from r1lab.entry import Stopped
from r1lab.run_folder import write_summary
from r1lab.sweeper.study import open_storage
from r1lab.sweeper.sweeper import SweepError
from r1lab.sweeper.work import ABANDONED, ERROR, is_live
from tests.sweeper.fake import STEPS, make, states, sweep

GRID = {"sampler": "grid", "params": {"x": "1,2,3"}}


def test_a_points_value_is_the_mean_over_its_seeds_and_each_is_kept(tmp_path):
    study = sweep(tmp_path, lambda run: run["x"] + run.seed / 10, seeds=[1, 2, 6], **GRID)
    assert [t.value for t in study.trials] == pytest.approx([1.3, 2.3, 3.3])
    for trial in study.trials:
        kept = [trial.user_attrs[f"seed/{seed}"]["value"] for seed in (1, 2, 6)]
        assert kept == [trial.params["x"] + seed / 10 for seed in (1, 2, 6)]


def test_what_a_run_is_told(tmp_path):
    seen = []
    sweep(tmp_path, lambda run: 0.5, seen=seen, arguments=("loss.beta=0.5",), seeds=2, sampler="grid",
          params={"x": "1,2", "reward": "[accuracy],[accuracy,format]"})  # fmt: skip
    assert len(seen) == 8
    run = seen[3]
    assert (run["x"], run["reward"], run["loss.beta"], run.seed) == (1, ["accuracy", "format"], 0.5, 2)
    assert run["hydra.sweep.subdir"] == "point_0001/seed_2"
    assert run["objective"] == "validation/pass_at_1"
    assert run["evaluation.cache"] == str(tmp_path / "runs/before")
    callback = run["+callback.pruning"]
    assert callback["_target_"] == "r1lab.callback.pruning.Pruning" and callback["metric"] == "validation/pass_at_1"
    assert callback["report"] == {
        "_target_": "r1lab.sweeper.reporter.Reporter",
        "_recursive_": False,
        "storage": str(tmp_path / "journal.log"),
        "study": "study",
        "trial": 1,
        "pruner": None,
        "seed_index": 1,
        "seeds": 2,
        "steps": STEPS,
    }


def test_a_failing_run_fails_its_point_and_the_sweep_goes_on(tmp_path, capsys, caplog):
    def objective(run):
        if run["x"] == 2 and run.seed == 2:
            raise ValueError("out of\n  memory")
        return run["x"]

    seen = []
    with caplog.at_level(logging.INFO, logger="r1lab.sweeper"):
        study = sweep(tmp_path, objective, seen=seen, seeds=3, **GRID)
    assert states(study) == ["COMPLETE", "FAIL", "COMPLETE"]
    assert study.trials[1].user_attrs[ERROR] == "out of memory"
    assert study.trials[1].user_attrs["seed/1"]["value"] == 2 and "seed/2" not in study.trials[1].user_attrs
    assert [run.seed for run in seen if run["x"] == 2] == [1, 2]  # no third
    assert caplog.messages[1] == "2/3  x=2  failed: out of memory"
    assert capsys.readouterr().err == ""  # Hydra's own line is left out


@pytest.mark.parametrize(
    "value, told",
    [
        (float("nan"), "=nan)"),
        (float("inf"), "=inf)"),
        (float("-inf"), "=-inf)"),
    ],
)
def test_what_is_not_a_number_fails(tmp_path, value, told):
    study = sweep(tmp_path, lambda run: value if run["x"] == 2 else 0.5, **GRID)
    assert states(study) == ["COMPLETE", "FAIL", "COMPLETE"]
    assert study.trials[1].user_attrs[ERROR] == f"seed 1: the objective is not a number (validation/pass_at_1{told}"


def test_an_objective_that_was_never_measured_says_what_was(tmp_path):
    def objective(run):
        folder = tmp_path / "runs" / run["hydra.sweep.subdir"]
        folder.mkdir(parents=True)
        write_summary(folder, {"after": {"heldout": {"pass_at_1": 0.5}}})
        return None if run["x"] == 2 else 0.5

    study = sweep(tmp_path, objective, objectives="heldout/pas_at_1", **GRID)
    told = "seed 1: heldout/pas_at_1 was never measured; there are heldout/pass_at_1"
    assert study.trials[1].user_attrs[ERROR] == told


def test_a_failed_point_is_not_run_again(tmp_path):
    seen = []
    for _ in range(2):
        study = sweep(tmp_path, lambda run: None if run["x"] == 2 else 0.5, seen=seen, **GRID)
    assert len(seen) == 3 and len(study.trials) == 3


@pytest.mark.parametrize("allowed, runs", [(0, 1), (1, 2), (3, 4)])
def test_how_many_may_fail(tmp_path, allowed, runs):
    seen = []
    told = f"{runs} points failed, more than hydra.sweeper.max_failures={allowed} .*: ZeroDivisionError: division by"
    with pytest.raises(SweepError, match=told):
        sweep(tmp_path, lambda run: 1 / 0, seen=seen, max_failures=allowed, n_trials=9)
    assert len(seen) == runs


def test_a_pruned_point_has_no_further_seed(tmp_path, caplog):
    def objective(run):
        value = 0.1 if run["x"] > 0.9 else 0.5
        assert run.report(value, 2) == (run["x"] > 0.9)
        return value

    points = {"sampler": "grid", "params": {"x": "0.1,0.2,0.3,0.4,0.95"}}
    with caplog.at_level(logging.INFO, logger="r1lab.sweeper"):
        study = sweep(tmp_path, objective, pruner="median", seeds=3, **points)
    assert states(study) == ["COMPLETE"] * 4 + ["PRUNED"]
    assert study.trials[4].value == 0.1
    assert [key for key in study.trials[4].user_attrs if key.startswith("seed/")] == ["seed/1"]
    assert caplog.messages[-1] == "5/5  x=0.95  pruned in seed 1 at step 2"


def test_pruned_in_the_last_step_of_the_last_seed_is_complete(tmp_path):
    def objective(run):
        value = 0.1 if run["x"] == 0.95 else 0.5
        assert run.report(value, STEPS) is False
        return value

    points = {"sampler": "grid", "params": {"x": "0.1,0.2,0.3,0.4,0.95"}}
    study = sweep(tmp_path, objective, pruner="median", seeds=1, **points)
    assert states(study) == ["COMPLETE"] * 5 and study.trials[4].value == 0.1


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, Stopped])
def test_what_ends_the_process_gives_the_point_back(tmp_path, stop):
    def objective(run):
        if run["x"] == 2 and run.seed == 2:
            raise stop("stopped")
        return run["x"]

    with pytest.raises(stop):
        sweep(tmp_path, objective, seeds=2, **GRID)
    seen = []
    study = sweep(tmp_path, lambda run: run["x"], seen=seen, seeds=2, **GRID)
    assert [(run["x"], run.seed) for run in seen] == [(3, 1), (3, 2), (2, 2)]
    assert sorted(t.value for t in study.trials if t.state == TrialState.COMPLETE) == [1, 2, 3]
    (given_back,) = [t for t in study.trials if not is_live(t)]
    assert given_back.params == {"x": 2} and ERROR not in given_back.user_attrs


def test_what_a_launcher_loses_is_a_failed_point(tmp_path):
    made = make(tmp_path, lambda run: run["x"], seeds=2, **GRID)
    launch = made.launch

    def losing(jobs, initial_job_idx):
        if "x=2" in jobs[0]:
            raise RuntimeError("a process of the pool died")
        return launch(jobs, initial_job_idx=initial_job_idx)

    made.launch = losing
    study = made.run()
    assert sorted(states(study)) == ["COMPLETE", "COMPLETE", "FAIL"]
    (lost,) = [t for t in study.trials if t.state == TrialState.FAIL]
    assert lost.params == {"x": 2} and "a process of the pool died" in lost.user_attrs[ERROR]


def test_only_what_is_measured_on_the_way_is_reported(tmp_path):
    seen = []
    sweep(tmp_path, lambda run: run["x"], seen=seen, objectives="heldout/pass_at_1", **GRID)
    assert seen and not any("+callback.pruning" in run.values for run in seen)


def test_a_batch_runs_some_points_at_a_time(tmp_path):
    batches = []
    made = make(tmp_path, lambda run: run["x"] if run["x"] != 2 else None, batch=2, seeds=2, **GRID)
    launch = made.launch

    def noted(jobs, initial_job_idx):
        batches.append(len(jobs))
        return launch(jobs, initial_job_idx=initial_job_idx)

    made.launch = noted
    study = made.run()
    assert batches == [2, 1, 1, 1]  # the second point fails in its first seed
    assert states(study) == ["COMPLETE", "FAIL", "COMPLETE"]


def test_a_point_that_another_process_took_over_is_left_to_it(tmp_path, caplog):
    """A machine that slept is taken for dead, and its points are run elsewhere."""
    made = make(tmp_path, None, **GRID)

    def objective(run):
        queue = made.points.queue
        if run["x"] == 2 and not any(ABANDONED in t.user_attrs for t in queue.trials()):
            queue.release_own()
        return run["x"]

    made.launch = make(tmp_path / "other", objective, **GRID).launch
    study = made.run()
    assert "point 1 was taken over by another process" in caplog.text
    assert states(study) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert [t.value for t in study.trials if t.state == TrialState.COMPLETE] == [1, 3, 2]


def test_several_objectives_are_told_in_order(tmp_path):
    names = ["validation/pass_at_1", "validation/completion_length"]
    seen = []
    study = sweep(
        tmp_path,
        lambda run: [run["x"], 10 * run["x"] + run.seed] if run["x"] != 3 else [1.0, None],
        seen=seen,
        seeds=2,
        objectives=names,
        directions=["maximize", "minimize"],
        **GRID,
    )
    assert seen[0]["objective"] == names and "+callback.pruning" not in seen[0].values
    assert [t.values for t in study.trials[:2]] == [[1, 11.5], [2, 21.5]]
    assert study.trials[0].user_attrs["seed/2"]["value"] == [1, 12]
    assert "validation/completion_length was never measured" in study.trials[2].user_attrs[ERROR]
    assert open_storage(str(tmp_path / "journal.log")).get_all_studies()[0].directions == study.directions
