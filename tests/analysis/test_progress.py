from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest

from r1lab.analysis.progress import grid_size, is_unfinished, missing_trials, progress, wall_hours
from r1lab.analysis.sweep import load_sweep


def test_a_finished_grid(beta_sweep):
    sweep = load_sweep(beta_sweep.folder)
    assert (grid_size(sweep), missing_trials(sweep), progress(sweep)) == (3, 0, "all finished")
    assert not is_unfinished(sweep)


def test_what_is_missing(write_sweep, tmp_path):
    params = {"a": [1, 2, 3], "model.name": ["x", "y"]}
    writer = write_sweep(tmp_path / "part", params, blocks=["model.name"])
    writer.trial({"a": 1, "model.name": "x"}, {1: 0.5, 2: 0.5})
    writer.trial({"a": 1, "model.name": "y"}, {}, "FAIL")
    writer.trial({"a": 2, "model.name": "x"}, {}, "PRUNED")
    writer.trial({"a": 2, "model.name": "y"}, {}, "RUNNING")
    sweep = load_sweep(writer.folder)
    assert progress(sweep) == (
        "1 finished, 1 pruned, 1 failed, 1 running, 2 missing of the grid's 6, 1 seed missing in finished ones"
    )
    assert is_unfinished(sweep)


def test_the_size_of_a_conditional_sweep_is_unknown(write_sweep, tmp_path):
    writer = write_sweep(tmp_path / "if", {"kl": ["k3", None], "beta": [0.1, 0.2]})
    writer.trial({"kl": None}, {1: 0.5, 2: 0.5, 3: 0.5})
    sweep = load_sweep(writer.folder)
    assert grid_size(sweep) is None and progress(sweep) == "all finished" and not is_unfinished(sweep)


def test_points_that_were_left_out_are_not_missing(write_sweep, tmp_path):
    exclude = [{"kl": None, "beta": 0.2}, {"kl": "k1"}]
    writer = write_sweep(tmp_path / "part", {"kl": ["k1", "k3", None], "beta": [0.1, 0.2]}, exclude=exclude)
    for kl, beta in (("k3", 0.1), ("k3", 0.2), (None, 0.1)):
        writer.trial({"kl": kl, "beta": beta}, {1: 0.5, 2: 0.5, 3: 0.5})
    sweep = load_sweep(writer.folder)
    assert (grid_size(sweep), progress(sweep)) == (3, "all finished")


def test_hours_in_which_trials_ran():
    def trial(start, end, **attrs):
        at = [None if m is None else datetime(2026, 1, 1) + timedelta(minutes=m) for m in (start, end)]
        return SimpleNamespace(datetime_start=at[0], datetime_complete=at[1], user_attrs=attrs)

    # Two side by side, one within, a pause of an hour, one that still runs, one whose death was found later.
    trials = [trial(0, 20), trial(10, 30), trial(12, 15), trial(90, 120), trial(110, None), trial(None, None)]
    trials.append(trial(125, 900, abandoned=True))
    sweep = SimpleNamespace(study=SimpleNamespace(get_trials=lambda deepcopy: trials[::-1]))
    assert wall_hours(sweep) == pytest.approx(1.0)
