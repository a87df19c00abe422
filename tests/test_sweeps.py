"""Every sweep file composes, its points can run, and one of them does; with every launcher."""

import os
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import yaml
from hydra import compose, initialize_config_dir
from optuna.trial import TrialState

import r1lab.sweeper.preflight as preflight
from r1lab.entry import CONF
from r1lab.sweeper.study import RECORD, open_storage
from r1lab.sweeper.sweeper import Sweep
from tests.sweeper.fake import command_line

ROOT = Path(__file__).parents[1]
FILES = sorted(file.stem for file in (ROOT / "sweeps").glob("*.yaml"))
PIPELINES = [
    name for name in FILES if "pipeline" in yaml.safe_load((ROOT / f"sweeps/{name}.yaml").read_text())["defaults"]
]
SWEEPS = [name for name in FILES if name not in PIPELINES]
# One small run of one point. Group sizes up to 64 divide the batch.
SMALL = (
    "debug=two_steps",
    "rollout.batch_size=64",
    "rollout.max_new_tokens=8",
    "trainer.max_steps=2",
    "trainer.val_check_interval=2",
    "hydra.sweeper.seeds=1",
    "hydra.sweeper.workers=1",
    "hydra.sweeper.preflight=false",
    "hydra.sweeper.finish=null",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", SWEEPS)
def test_one_tiny_trial(name, tmp_path, monkeypatch, capsys):
    slots = Sweep.slots

    def first(sweep):
        """The first point alone, once a few of all were found to be able to run."""
        preflight.refuse_points_that_cannot_run(sweep, preflight.some_points(sweep))
        found = slots(sweep)
        return {next(iter(found)): next(iter(found.values()))}

    monkeypatch.setattr(Sweep, "slots", first)
    monkeypatch.setattr(preflight, "_CHECKED", 4)
    monkeypatch.chdir(ROOT)  # a sweep file names bases that lie beside it
    storage = f"{tmp_path}/journal.log"
    places = (f"hydra.sweeper.storage={storage}", f"hydra.sweep.dir={tmp_path}/runs")
    command_line(monkeypatch, "--config-dir", "sweeps", "--config-name", name, *SMALL, *places)
    assert capsys.readouterr().err == ""

    study = optuna.load_study(study_name=name, storage=open_storage(storage))
    (trial,) = study.trials
    assert trial.state == TrialState.COMPLETE and trial.user_attrs["seed/1"]["steps"] == 2
    record = study.user_attrs[RECORD]
    assert record["question"].endswith("?") and len(record["question"]) < 120
    assert record["baseline"].items() <= trial.params.items()  # first
    assert record["minimum_effect"] is not None


@pytest.mark.parametrize("name", ["clip_epsilon", "tune", "tune_unpruned"])
@pytest.mark.slow
def test_the_clip_range_is_symmetric_in_every_point(name, tmp_path, monkeypatch):
    """`loss.epsilon_low: ${loss.epsilon_high}` of a sweep file follows each point."""
    pairs = set()

    def run(sweep):
        for point in preflight.some_points(sweep):
            config = sweep.plain_config(sweep.space.overrides(point))
            pairs.add((point["loss.epsilon_high"], config["loss"]["epsilon_high"], config["loss"]["epsilon_low"]))

    monkeypatch.setattr(Sweep, "run", run)
    monkeypatch.setattr(preflight, "_CHECKED", 24)
    monkeypatch.chdir(ROOT)
    command_line(monkeypatch, "--config-dir", "sweeps", "--config-name", name, "hydra.sweeper.finish=null")
    assert pairs == {(epsilon,) * 3 for epsilon in (0.1, 0.2, 0.4, 10.0)}


LAUNCHED = """
defaults:
  - sweep
  - override hydra/sweeper: r1lab_optuna
  - override hydra/sweeper/sampler: grid
  - override hydra/sweeper/pruner: median
  - override hydra/launcher: {launcher}
  - override model: tiny_untrained
  - override debug: two_steps
  - _self_
name: launched
objective: validation/completion_length
hydra:
  launcher: {options}
  sweeper:
    # An untrained policy writes until it may not.
    params: {{rollout.max_new_tokens: "9,8,4,3"}}
    pruner: {{n_startup_trials: 2}}
    seeds: 2
    batch: 2
    preflight: false
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher, options",
    [("joblib", {"n_jobs": 2}), ("submitit_local", {"timeout_min": 5, "submitit_folder": "submitit"})],
)
def test_runs_in_other_processes_are_pruned(launcher, options, tmp_path):
    """Each finds the pruner, the storage and its own folder; a pruned point has no second seed."""
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    (tmp_path / "launched.yaml").write_text(LAUNCHED.format(launcher=launcher, options=options))
    command = [sys.executable, "-m", "r1lab.train", "--config-dir", ".", "--config-name", "launched"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    storage = open_storage(str(tmp_path / "sweeps/results/launched/journal.log"))
    trials = optuna.load_study(study_name="launched", storage=storage).trials
    assert [t.state.name for t in trials] == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED"]
    assert [t.value for t in trials] == [9.0, 8.0, 4.0, 3.0]
    folders = sorted(
        str(path.relative_to(tmp_path / "runs/sweeps/launched")) for path in tmp_path.rglob("summary.json")
    )
    points = [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (3, 1)]
    assert folders == [f"point_{number:04}/seed_{seed}/summary.json" for number, seed in points]
    # Neither the runs nor their libraries say anything; the analysis comes last.
    analysis = [sys.executable, "-m", "r1lab.analysis.ablation", "sweeps/results/launched"]
    again = subprocess.run(analysis, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert "wrote sweeps/results/launched/table.md" in again.stdout
    told = done.stdout.splitlines()
    assert told[4:] == again.stdout.splitlines()
    assert told[:4] == [
        "1/4  rollout.max_new_tokens=9  9",
        "2/4  rollout.max_new_tokens=8  8",
        "3/4  rollout.max_new_tokens=4  pruned in seed 1 at step 2",
        "4/4  rollout.max_new_tokens=3  pruned in seed 1 at step 2",
    ]
    assert done.stderr == ""


@pytest.mark.parametrize("name", PIPELINES)
def test_a_comparison_of_several_stages_is_a_pipeline(name, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(ROOT)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("pipeline", [f"pipeline={name}"])
    teachers = config.pipeline.get("teachers", {})
    places = [f"folder={tmp_path}", *(f"pipeline.teachers.{own}=notebooks/r1zero_run" for own in teachers)]
    options = ("--config-dir", "sweeps", "--config-name", name, "dry_run=true", *places)
    command_line(monkeypatch, *options, module="r1lab.pipeline")
    said = capsys.readouterr()
    assert said.err == ""
    for seed in (1, 2, 3):
        for stage in config.pipeline.stages:
            assert f"seed {seed}  {stage:<12}" in said.out
    assert f"[{name}]({name}.yaml)" in (ROOT / "sweeps/README.md").read_text()


def test_sweep_files_are_written_alike():
    listed = (ROOT / "sweeps/README.md").read_text()
    for name in SWEEPS:
        assert f"[{name}]({name}.yaml)" in listed
        settings = yaml.safe_load((ROOT / f"sweeps/{name}.yaml").read_text())
        assert settings["name"] == name
        assert settings["hydra"]["sweeper"]["question"].endswith("?")


def test_the_table_of_verdicts_has_the_commit_of_each():
    rows = (ROOT / "sweeps/README.md").read_text().splitlines()
    for name in SWEEPS:
        (row,) = [line for line in rows if f"[{name}]({name}.yaml)" in line]
        verdict = ROOT / f"sweeps/results/{name}/verdict.md"
        told = row.split("|")[-2].strip()
        assert (f"commit {told};" in verdict.read_text()) if verdict.exists() else told == "", name
