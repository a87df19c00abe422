import json
import logging
import shutil
import warnings

import optuna
import pytest
from omegaconf import OmegaConf
from optuna.trial import TrialState

from r1lab.entry import CONF
from r1lab.sweeper.space import SpaceError
from r1lab.sweeper.study import RECORD, StudyError
from r1lab.sweeper.sweeper import SweepError
from r1lab.sweeper.sweeper import sweep as run_sweep
from r1lab.sweeper.work import SLOT
from tests.sweeper.fake import BASE, Run, command_line, launcher, settings, states, sweep

SAMPLERS = sorted(file.stem for file in (CONF / "hydra/sweeper/sampler").glob("*.yaml"))
PRUNERS = sorted(file.stem for file in (CONF / "hydra/sweeper/pruner").glob("*.yaml"))
finishes = []


def peak(run: Run) -> float:
    return -((run["x"] - 0.3) ** 2)


def depends(base, trial):
    """A custom search space: `z` is there for one of two kinds alone."""
    if trial.params["kind"] == "a":
        trial.suggest_float("loss.z", 0.0, base["rollout"]["group_size"])


def note(storage, name):
    finishes.append((storage, name))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_runs(tmp_path, sampler):
    continuous = {"x": "interval(0,1)", "y": "tag(log,interval(1e-5,1e-2))", "n": "int(interval(2,8))", "c": "a,b"}
    params = {"x": "0.1,0.3,0.5", "c": "a,b"} if sampler == "grid" else continuous
    seen = []
    study = sweep(tmp_path, peak, seen=seen, sampler=sampler, n_trials=14, params=params)
    assert states(study) == ["COMPLETE"] * (6 if sampler == "grid" else 14)
    assert len({str(sorted(t.params.items())) for t in study.trials}) == len(study.trials)
    assert all(
        t.params["x"] == run["x"] and t.params["c"] == run["c"] for t, run in zip(study.trials, seen, strict=True)
    )
    if sampler != "grid":
        assert all(1e-5 <= run["y"] <= 1e-2 and run["n"] in range(2, 9) for run in seen)


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "gp"])
def test_samplers_that_learn_do(tmp_path, sampler):
    """The later half is nearer to the best than what is drawn at random, 0.29 on average from 0.3."""
    study = sweep(tmp_path, peak, sampler=sampler, n_trials=24, params={"x": "interval(0,1)", "y": "interval(0,1)"})
    late = [abs(t.params["x"] - 0.3) for t in study.trials[12:]]
    assert sum(late) / len(late) < 0.2


@pytest.mark.parametrize("pruner", PRUNERS)
def test_every_pruner_runs(tmp_path, pruner):
    def objective(run):
        run.report(peak(run), 2)
        run.report(peak(run), 4)
        return peak(run)

    study = sweep(tmp_path, objective, pruner=pruner, n_trials=10, seeds=6)
    assert {t.state for t in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert any(t.state == TrialState.PRUNED for t in study.trials) or pruner not in ("median", "wilcoxon")


def test_a_grid_runs_every_point_once_the_baseline_first(tmp_path):
    seen = []
    grid = {"sampler": "grid", "params": {"b": "u,v", "x": "0.1,0.2,0.3"}}
    sweep(tmp_path, peak, seen=seen, baseline={"x": 0.2}, n_trials=1, **grid)
    points = [(run["b"], run["x"]) for run in seen]
    assert points == [("u", 0.2), ("v", 0.2), ("u", 0.1), ("u", 0.3), ("v", 0.1), ("v", 0.3)]


def test_points_that_are_excluded(tmp_path):
    seen = []
    grid = {"sampler": "grid", "params": {"b": "u,v", "x": "0.1,0.2"}, "exclude": [{"b": "v", "x": 0.2}]}
    sweep(tmp_path, peak, seen=seen, **grid)
    assert [(run["b"], run["x"]) for run in seen] == [("u", 0.1), ("u", 0.2), ("v", 0.1)]


def test_the_baseline_of_other_samplers_is_their_first_point(tmp_path):
    study = sweep(tmp_path, peak, baseline={"x": 0.25}, params={"x": "interval(0,1)", "y": "interval(0,1)"}, n_trials=3)
    assert study.trials[0].params["x"] == 0.25 and "y" in study.trials[0].params
    assert all(t.params["x"] != 0.25 for t in study.trials[1:])


@pytest.mark.parametrize(
    "given, told",
    [
        ({"params": {"x": 1}}, "hydra.sweeper.params: name something to vary"),
        ({"params": {"loss.beta": "choice(1,"}}, "loss.beta=choice"),
        ({"baseline": {"y": 1}}, "hydra.sweeper.baseline names y, which is not among the params"),
        ({"baseline": {"x": 2}}, "hydra.sweeper.baseline: x=2 is outside of what is varied"),
        ({"blocks": ["b"]}, "hydra.sweeper.blocks names b, which is not among the params"),
        ({"baseline": {"x": 4}, "sampler": "grid", "params": {"x": "1,2"}}, "is no point of the grid: add its values"),
        (
            {"sampler": "grid", "params": {"x": "1,2"}, "exclude": [{"x": "1"}]},
            "hydra.sweeper.exclude: no point of the grid has {'x': '1'}",
        ),
        ({"sampler": "grid"}, "x is an interval, which a grid cannot enumerate"),
        ({"params": {"trainer.max_steps": "10,20"}, "pruner": "median"}, "trainer.max_steps is varied, but pruning"),
    ],
)
def test_a_space_that_cannot_be_used_is_refused(tmp_path, given, told):
    with pytest.raises(SpaceError, match=told):
        sweep(tmp_path, peak, **given)
    assert not (tmp_path / "journal.log").exists()


def test_more_trials_later(tmp_path):
    sweep(tmp_path, peak, n_trials=3)
    seen = []
    study = sweep(tmp_path, peak, seen=seen, n_trials=5)
    assert states(study) == ["COMPLETE"] * 5 and len(seen) == 2
    assert [t.user_attrs[SLOT] for t in study.trials] == ["1", "2", "3", "4", "5"]
    assert len({t.params["x"] for t in study.trials}) == 5  # a seeded sampler that goes on does not draw the same again
    assert len(sweep(tmp_path, peak, n_trials=2).trials) == 5


def test_a_study_of_another_sweep_is_refused(tmp_path):
    sweep(tmp_path, peak, n_trials=2)
    for given, told in [
        ({"directions": "minimize"}, "direction maximize, not minimize"),
        ({"params": {"x": "interval(0,2)"}}, r"x was \[0.0, 1.0\] and is now \[0.0, 2.0\]"),
        ({"seeds": [3]}, r"seeds was \[1\] and is now \[3\]"),
        ({"objectives": "validation/format"}, "objectives was"),
        ({"base": BASE | {"rollout": {"group_size": 8}}}, "rollout.group_size was 4 and is now 8"),
    ]:
        with pytest.raises(StudyError, match=told):
            sweep(tmp_path, peak, n_trials=2, **given)
    # The seeds are the sweep's own.
    assert len(sweep(tmp_path, peak, n_trials=2, base=BASE | {"seed": 5}).trials) == 2


def test_more_seeds_later(tmp_path):
    """Points that are finished are run with the new seeds alone; one that failed is not run again."""

    def objective(run):
        if run.seed == 1 and len(seen) == 2:
            raise ValueError("the second point")
        run.report(run["x"] + run.seed, 4)
        return run["x"] + run.seed

    seen = []
    given = {"sampler": "grid", "params": {"x": "0.1,0.2,0.3"}}
    first = sweep(tmp_path, objective, seen=seen, **given)
    points = [t.params["x"] for t in first.trials if t.state == TrialState.COMPLETE]
    seen = [None] * 9
    study = sweep(tmp_path, objective, seen=seen, seeds=3, **given)
    assert [(run["x"], run.seed) for run in seen[9:]] == [(x, seed) for x in points for seed in (2, 3)]
    assert states(study) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    for x, trial, number in zip(points, study.trials[3:], (0, 2), strict=True):
        assert trial.params["x"] == x and trial.user_attrs["goes_on"] == number
        assert trial.value == pytest.approx(x + 2) and [trial.user_attrs[f"seed/{s}"]["value"] for s in (1, 2, 3)] == [
            x + 1, x + 2, x + 3,
        ]  # fmt: skip
        assert trial.intermediate_values == {4: x + 1, 8: x + 2, 12: x + 3}
    assert study.user_attrs[RECORD]["seeds"] == [1, 2, 3]
    seen = []
    assert len(sweep(tmp_path, objective, seen=seen, seeds=3, **given).trials) == 5 and not seen
    with pytest.raises(StudyError, match=r"has been run with more seeds: set hydra.sweeper.seeds=\[1, 2, 3\]"):
        sweep(tmp_path, objective, **given)


def test_failed_points_are_run_again_where_asked(tmp_path):
    """From the seed that failed; the ones before are kept."""
    broken = lambda run: 1 / 0 if run["x"] != 0.1 and run.seed == 2 else run["x"]  # noqa: E731
    given = {"sampler": "grid", "params": {"x": "0.1,0.2,0.3"}, "seeds": 2}
    with pytest.raises(SweepError, match="2 points failed, more than .*retry_failed=true there runs them again"):
        sweep(tmp_path, broken, max_failures=1, **given)
    with pytest.raises(SweepError):
        sweep(tmp_path, lambda run: run["x"], max_failures=1, **given)
    seen = []
    study = sweep(tmp_path, lambda run: run["x"], seen=seen, max_failures=1, retry_failed=True, **given)
    assert sorted((run["x"], run.seed) for run in seen) == [(0.2, 2), (0.3, 2)]
    assert sorted(t.value for t in study.trials if t.state == TrialState.COMPLETE) == [0.1, 0.2, 0.3]


def test_a_sweep_with_failed_points_is_not_called_finished(tmp_path, caplog):
    given = {"sampler": "grid", "params": {"x": "0.1,0.2,0.3"}}
    for _ in range(2):
        with caplog.at_level(logging.INFO, logger="r1lab.sweeper"):
            sweep(tmp_path, lambda run: 1 / 0 if run["x"] != 0.1 else 0.5, **given)
    told = "3 points are done, 2 of them failed; hydra.sweeper.retry_failed=true runs those again"
    assert caplog.messages[-1] == told


def test_a_sweep_of_nothing_but_failures_says_so(tmp_path):
    with pytest.raises(SweepError, match="3 points failed, all there are"):
        sweep(tmp_path, lambda run: 1 / 0, n_trials=3, max_failures=9)


def test_a_committed_study_that_is_finished_stays_as_it_is(tmp_path, monkeypatch, capsys):
    folder = CONF.parent / "sweeps"
    committed = folder / "results/advantage_scale/journal.log"
    journal = shutil.copy(committed, tmp_path / "journal.log")
    options = (f"hydra.sweeper.storage={journal}", "hydra.sweeper.workers=1", "hydra.sweeper.finish=null")
    monkeypatch.chdir(tmp_path)
    command_line(monkeypatch, "--config-dir", str(folder), "--config-name", "advantage_scale", *options)
    assert "all 4 points are finished" in capsys.readouterr().out
    assert journal.read_bytes() == committed.read_bytes()


def test_functions_that_are_not_there_are_told_at_once(tmp_path):
    for key in ("finish", "check", "custom_search_space"):
        with pytest.raises(ValueError, match=f"hydra.sweeper.{key}=no.such is no function that can be imported"):
            sweep(tmp_path, peak, **{key: "no.such"})


def test_a_search_keeps_its_seeds(tmp_path):
    sweep(tmp_path, peak, n_trials=2)
    with pytest.raises(StudyError, match="a search, whose points were chosen by 1 seeds: run its best ones"):
        sweep(tmp_path, peak, n_trials=2, seeds=2)


def test_what_the_study_is_about_is_in_it(tmp_path):
    given = {
        "question": "Which x?",
        "reported": "0.3",
        "baseline": {"x": 1},
        "blocks": "b",
        "secondary": "last/loss/kl",
        "minimum_effect": 0.1,
    }
    study = sweep(tmp_path, peak, sampler="grid", params={"x": "1,2", "b": "u,v"}, pruner="median", **given)
    record = study.user_attrs[RECORD]
    assert json.loads(json.dumps(record)) == record
    assert {key: record[key] for key in given} == given | {"blocks": ["b"], "secondary": ["last/loss/kl"]}
    assert record["params"]["x"]["levels"] == [1, 2]
    assert (record["sampler"], record["pruner"], record["seeds"], record["steps"]) == ("grid", "MedianPruner", [1], 4)
    assert record["command"].startswith("python ") and record["versions"]["torch"] and record["device"]


def test_several_objectives_end_to_end(tmp_path):
    names = ["validation/pass_at_1", "validation/completion_length"]
    study = sweep(
        tmp_path, lambda run: [run["x"], run["x"] ** 2], sampler="nsgaii", n_trials=24,
        objectives=names, directions=["maximize", "minimize"],
    )  # fmt: skip
    assert states(study) == ["COMPLETE"] * 24
    assert [t.values for t in study.trials] == [
        [t.params["x"], pytest.approx(t.params["x"] ** 2)] for t in study.trials
    ]
    assert len(study.best_trials) == len({t.params["x"] for t in study.trials})  # all are on the front
    assert study.user_attrs[RECORD]["objectives"] == names


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_custom_search_space(tmp_path, sampler):
    seen = []
    study = sweep(
        tmp_path,
        lambda run: run.values.get("loss.z", -1),
        seen=seen,
        sampler=sampler,
        n_trials=12,
        params={"kind": "a,b"},
        custom_search_space="tests.sweeper.test_sweeper.depends",
    )
    assert states(study) == ["COMPLETE"] * 12
    for trial, run in zip(study.trials, seen, strict=True):
        assert ("loss.z" in trial.params) == (trial.params["kind"] == "a") == ("loss.z" in run.values)
        assert 0 <= run.values.get("loss.z", 0) <= 4 and trial.params == {k: run[k] for k in trial.params}
    assert len({t.params["kind"] for t in study.trials}) == 2


def test_nothing_is_said_by_libraries(tmp_path, capsys):
    with warnings.catch_warnings(record=True) as caught:
        sweep(tmp_path, peak, sampler="tpe", n_trials=10, params={"x": "interval(0,1)", "c": "a,b"})
    assert [w for w in caught if not issubclass(w.category, optuna.exceptions.ExperimentalWarning)] == []
    assert capsys.readouterr() == ("", "")


def test_choices_beside_cmaes_are_nothing_to_warn_of(tmp_path, caplog):
    optuna.logging.enable_propagation()
    try:
        params = {"x": "interval(0,1)", "y": "interval(0,1)", "c": "a,b"}
        sweep(tmp_path, peak, sampler="cmaes", n_trials=4, params=params)
    finally:
        optuna.logging.disable_propagation()
    assert not [message for message in caplog.messages if "CmaEsSampler" in message]


def test_finish_is_called_once_at_the_end(tmp_path):
    given = settings(tmp_path, n_trials=2, finish="tests.sweeper.test_sweeper.note")
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    finishes.clear()
    run_sweep(given, config, [], lambda overrides: OmegaConf.create({**BASE, "hydra": {}}), launcher(peak))
    # `get_method` imports this file by its name, pytest by its path.
    from tests.sweeper.test_sweeper import finishes as noted

    assert (finishes or noted) == [(str(tmp_path / "journal.log"), "study")]


def test_resuming_draws_nothing_again(tmp_path):
    first = {t.params["x"] for t in sweep(tmp_path, peak, sampler="random", n_trials=5).trials}
    assert first == {t.params["x"] for t in sweep(tmp_path / "again", peak, sampler="random", n_trials=5).trials}
    made = sweep(tmp_path, peak, sampler="random", n_trials=10)
    assert len({t.params["x"] for t in made.trials}) == 10


SWEEP = """
defaults:
  - sweep
  - override hydra/sweeper: r1lab_optuna
  - override hydra/sweeper/sampler: {sampler}
  - override hydra/sweeper/pruner: {pruner}
  - override model: tiny_untrained
  - override debug: two_steps
  - _self_
name: tiny
rollout: {{max_new_tokens: 8}}
hydra:
  sweeper:
    question: Does it run?
    params: {params}
    seeds: {seeds}
"""


def sweep_file(folder, *, sampler="grid", pruner="none", params="{loss.beta: '0.0,0.5'}", seeds=2, more=""):
    text = SWEEP.format(sampler=sampler, pruner=pruner, params=params, seeds=seeds)
    (folder / "tiny.yaml").write_text(text + more)


def loaded(folder):
    from r1lab.sweeper.study import open_storage

    return optuna.load_study(study_name="tiny", storage=open_storage(str(folder / "sweeps/results/tiny/journal.log")))


def test_a_whole_sweep(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    sweep_file(tmp_path)
    command_line(monkeypatch, "--config-dir", str(tmp_path), "--config-name", "tiny")
    study = loaded(tmp_path)
    assert states(study) == ["COMPLETE"] * 2
    for trial in study.trials:
        for seed in (1, 2):
            record = trial.user_attrs[f"seed/{seed}"]
            assert record["run"] == f"runs/sweeps/tiny/point_{trial.number:04}/seed_{seed}"
            assert record["curve"]["step"] == [2] and record["after"]["heldout"]["num_prompts"] == 4
            assert trial.intermediate_values.keys() == {2, 4}
            files = {path.name for path in (tmp_path / record["run"]).iterdir()}
            assert files == {"config.yaml", "metrics.csv", "summary.json", "train.log"}
    told = capsys.readouterr()
    assert told.err == ""
    assert "2 points x 2 seeds = 4 runs of 2 steps" in told.out and "Does it run?" in told.out
    assert "1/2  loss.beta=0  0\n2/2  loss.beta=0.5  0\n" in told.out
    # It is summed up at its end.
    written = {path.name for path in (tmp_path / "sweeps/results/tiny").iterdir()}
    assert written == {"journal.log", "table.md", "trials.csv", "figure.png", "verdict.md"}
    # Each of the two bases (a fresh one a seed) was scored once, whatever ran on it.
    assert len(list((tmp_path / "runs/sweeps/tiny/before").iterdir())) == 2


@pytest.mark.slow
def test_a_whole_sweep_with_pruning_two_objectives_and_conditions(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    objectives = "['validation/pass_at_1','validation/completion_length']"
    common = ("--config-dir", str(tmp_path), "--config-name", "tiny", "hydra.sweeper.preflight=false")
    sweep_file(tmp_path, sampler="nsgaii", seeds=1)
    two = (f"objective={objectives}", "hydra.sweeper.directions=[maximize,minimize]", "hydra.sweeper.n_trials=2")
    command_line(monkeypatch, *common, *two)
    study = loaded(tmp_path)
    assert [t.values for t in study.trials] == [[0.0, 8.0]] * 2

    sweep_file(tmp_path, sampler="tpe", pruner="median", seeds=1, params="{loss.kl: 'k1,k3'}")
    named = ("name=other", "hydra.sweeper.n_trials=2")
    custom = "hydra.sweeper.custom_search_space=tests.sweeper.test_sweeper.beta_of_k1"
    command_line(monkeypatch, *common, *named, custom)
    assert (tmp_path / "sweeps/results/other/journal.log").exists()
    assert capsys.readouterr().err == ""


def beta_of_k1(base, trial):
    if trial.params["loss.kl"] == "k1":
        trial.suggest_float("loss.beta", 0.1, 0.2)


def test_pruning_with_several_objectives_is_refused_in_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sweep_file(tmp_path, sampler="nsgaii", pruner="median")
    two = ("objective=[a,b]", "hydra.sweeper.directions=[maximize,maximize]")
    with pytest.raises(SystemExit):
        command_line(monkeypatch, "--config-dir", str(tmp_path), "--config-name", "tiny", *two)
    told = capsys.readouterr().err
    assert told.startswith("error: hydra.sweeper.pruner: pruning needs a single objective") and told.count("\n") == 1
