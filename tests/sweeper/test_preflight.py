import logging
import os

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import r1lab.sweeper.preflight as preflight_module
from r1lab.entry import CONF, plain
from r1lab.run_folder import write_summary
from r1lab.sweeper.preflight import (
    dry_run,
    estimate,
    group_sizes,
    no_signal,
    preflight,
    refuse_points_that_cannot_run,
    some_points,
)
from r1lab.sweeper.space import SpaceError
from r1lab.train import check
from tests.sweeper.fake import BASE, make


def odd_is_impossible(config):
    if config["n"] % 2:
        raise ValueError(f"n={config['n']}\n  is odd")


def never(config):
    raise RuntimeError("never")


def leave_a_dry_run(folder, value=0.5):
    """Three steps, the first slow, a validation at the end, scored before."""
    folder.mkdir(parents=True, exist_ok=True)
    table = {"step": [1, 2, 3], "time/step_seconds": [5.0, 1.0, 2.0], "validation/seconds": [None, None, 0.5]}
    pd.DataFrame(table).to_csv(folder / "metrics.csv", index=False)
    summary = {"before": {"heldout": {"pass_at_1": 0.25}}, "evaluate_seconds": {"before": 4.0, "after": 3.0}}
    write_summary(folder, summary)
    return value


def test_no_signal_by_hand():
    assert no_signal(0.5, 2) == pytest.approx(0.5)  # both right or both wrong: 1/4 + 1/4
    assert no_signal(0.1, 4) == pytest.approx(0.0001 + 0.6561)
    assert no_signal(0.0, 16) == no_signal(1.0, 16) == 1.0
    assert no_signal(0.2, 1) == pytest.approx(1.0)


def test_the_estimate_by_hand(tmp_path):
    leave_a_dry_run(tmp_path)
    # Of 15 s, 8 were steps, 0.5 a validation, 4 the scores before: 2.5 around (with the scores after).
    # A step is the median of all but the first, 1.5 s; 40 of them with 4 validations.
    measured = estimate(tmp_path, 15.0, steps=40, every=10)
    assert measured == {"step": 1.5, "run": pytest.approx(2.5 + 60 + 2), "pass_rate": 0.25}


def test_the_estimate_of_a_run_without_scores(tmp_path):
    leave_a_dry_run(tmp_path)
    write_summary(tmp_path, {})
    assert estimate(tmp_path, 9.5, steps=10, every=5) == {
        "step": 1.5,
        "run": pytest.approx(1 + 15 + 1),
        "pass_rate": None,
    }


def sweep_of(tmp_path, objective=lambda run: 0.5, **given):
    base = BASE | {"n": 2}
    made = make(tmp_path, objective, base=base, **given)
    made.compose = lambda overrides: OmegaConf.merge(
        OmegaConf.create({**base, "hydra": {}}), OmegaConf.from_dotlist([o for o in overrides if o.startswith("n=")])
    )
    return made


def test_the_dry_run_is_a_few_steps_and_its_error_stops_the_sweep(tmp_path):
    seen = []

    def objective(run):
        return leave_a_dry_run(tmp_path / "runs" / run["hydra.sweep.subdir"])

    made = sweep_of(tmp_path, objective, seen=seen, seeds=[7, 8], arguments=("loss.beta=1",))
    assert dry_run(made, {"x": 0.25})["step"] == 1.5
    values = dict(seen[0].values)
    assert values == {
        "loss.beta": 1, "x": 0.25, "seed": 7, "trainer.max_steps": 3, "trainer.val_check_interval": 3,
        "objective": "validation/pass_at_1",
        "hydra.sweep.subdir": f"dry_run_{os.getpid()}", "evaluation.cache": str(tmp_path / "runs/before"),
    }  # fmt: skip
    assert not list(tmp_path.glob("runs/dry_run*"))
    with pytest.raises(ZeroDivisionError):
        dry_run(sweep_of(tmp_path, lambda run: 1 / 0), {"x": 0.25})


def test_an_objective_that_no_run_measures_stops_the_sweep(tmp_path):
    def run_of(name, *more):
        names = [name, *more]
        values = [None, *(0.5 for _ in more)]
        dry = lambda run: leave_a_dry_run(  # noqa: E731
            tmp_path / "runs" / run["hydra.sweep.subdir"], values if more else None
        )
        directions = ["maximize"] * len(names)
        return dry_run(sweep_of(tmp_path, dry, objectives=names, directions=directions), {"x": 0.25})

    for names in (["validation/pas_at_1"], ["heldout/pass_at_1", "validation/seconds"]):
        told = f"^hydra.sweeper.objectives: {names[0]} was not measured in the dry run; there are validation/seconds$"
        with pytest.raises(SpaceError, match=told):
            run_of(*names)
    assert run_of("time/later")["step"] == 1.5  # of the training: later steps may measure it


def test_what_is_printed(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    made = sweep_of(
        tmp_path, lambda run: leave_a_dry_run(tmp_path / "runs" / run["hydra.sweep.subdir"]), sampler="grid", seeds=3,
        workers=2, check=None, params={"rollout.group_size": "2,4"}, question="Which G?", pruner="median",
    )  # fmt: skip
    made.steps = 400
    preflight(made, [3] * 20)
    told = capsys.readouterr().out
    assert "Sweep study: Which G?" in told
    assert "20 points x 3 seeds = 60 runs of 400 steps" in told
    assert "(1.50 s a step)" in told
    # Around a run nothing was measured here; 400 x 1.5 + 200 x 0.5 = 700 s, 60 of them, 2 at a time.
    assert "5 h 50 min at most, less what pruning saves, 2 at a time" in told
    assert "groups without signal (base right: 25.0%)" in told and "62% at G = 2, 32% at G = 4" in told


def test_a_launcher_with_several_at_a_time(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    made = sweep_of(
        tmp_path, lambda run: leave_a_dry_run(tmp_path / "runs" / run["hydra.sweep.subdir"]), batch=4, check=None
    )
    made.steps = 400  # 700 s
    preflight(made, [1] * 24)
    assert "1 h 10 min, 4 at a time" in capsys.readouterr().out


def test_points_of_a_large_grid_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight_module, "_CHECKED", 6)
    grid = {"sampler": "grid", "params": {"x": "range(0,10)", "y": "1,2"}}
    points = some_points(make(tmp_path, None, **grid))
    assert len(points) == 6 and points[0] == {"x": 0, "y": 1}
    assert len({str(p) for p in points}) == 6
    assert len(some_points(make(tmp_path, None, sampler="grid", params={"x": "1,2"}))) == 2
    drawn = some_points(make(tmp_path, None, params={"x": "interval(2,3)"}))
    assert len(drawn) == 3 and all(2 <= point["x"] <= 3 for point in drawn)


def test_group_sizes_of_the_space_or_of_the_config(tmp_path):
    assert group_sizes(make(tmp_path, None, sampler="grid", params={"rollout.group_size": "2,8"})) == [2, 8]
    assert group_sizes(make(tmp_path, None)) == [4]


CHECK = "tests.sweeper.test_preflight.odd_is_impossible"


def test_every_point_of_a_grid_must_run(tmp_path):
    made = sweep_of(tmp_path, sampler="grid", params={"n": "2,3,4"}, check=CHECK)
    with pytest.raises(SpaceError, match="^hydra.sweeper.params: n=3 cannot run: n=3 is odd$"):
        refuse_points_that_cannot_run(made, some_points(made))


def test_of_other_spaces_some_points_must_run(tmp_path, caplog):
    made = sweep_of(tmp_path, params={"n": "2,3,4"}, check=CHECK)
    points = some_points(made)
    with caplog.at_level(logging.WARNING, logger="r1lab.sweeper"):
        refuse_points_that_cannot_run(made, points)
    assert {point["n"] for point in points} == {2, 4}
    assert "of 24 points that were tried n=3 cannot run" in caplog.text
    impossible = sweep_of(tmp_path, params={"n": "2,3"}, check="tests.sweeper.test_preflight.never")
    with pytest.raises(SpaceError, match="cannot run: never"):
        refuse_points_that_cannot_run(impossible, some_points(impossible))


def test_a_group_size_that_does_not_divide_the_batch(tmp_path):
    """With r1lab's own check and config."""
    made = make(tmp_path, None, sampler="grid", params={"rollout.group_size": "4,16,12"}, check="r1lab.train.check")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        made.compose = lambda overrides: compose("train", ["experiment=ablation", "model=tiny_untrained", *overrides])
        with pytest.raises(SpaceError, match="rollout.group_size=12 cannot run: .*rollout.batch_size"):
            refuse_points_that_cannot_run(made, some_points(made))


def test_the_check_loads_and_samples_nothing(monkeypatch):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = plain(compose("train", ["experiment=ablation", "model=tiny_untrained", "logger=csv", "~callback"]))
    monkeypatch.setattr("r1lab.model.policy.new_policy", None)
    check(config)
