import pytest
from optuna.trial import create_trial

from r1lab.analysis.ablation import main, parser, places, pruner
from r1lab.analysis.replay import replay, replay_of, replayed
from r1lab.analysis.sweep import SweepError, load_sweep

MEDIAN = {"n_startup_trials": 1, "n_warmup_steps": 0}


def finished(values):
    """A trial of one seed of 30 steps, with a value each 10."""
    curve = dict(zip((10, 20, 30), values, strict=True))
    return create_trial(value=values[-1], params={}, distributions={}, intermediate_values=curve)


def test_a_bad_point_ends_at_its_first_report():
    """Whichever is first runs whole: of 60 steps 40 are used where it is the good one, else all."""
    trials = [finished((0.5, 0.6, 0.7)), finished((0.1, 0.1, 0.1))]
    found = [replay(trials, "MedianPruner", MEDIAN, maximize=True, seed=seed) for seed in range(20)]
    assert {round(one.saved, 6) for one in found} == {0.0, round(1 / 3, 6)} and {one.lost for one in found} == {0.0}
    found = [replay(trials, "MedianPruner", MEDIAN, maximize=False, seed=seed) for seed in range(20)]
    assert {round(one.saved, 6) for one in found} == {0.0, round(1 / 3, 6)}


def test_a_point_that_starts_late_is_lost():
    trials = [finished((0.5, 0.5, 0.5)), finished((0.1, 0.4, 0.9))]
    found = [replay(trials, "MedianPruner", MEDIAN, maximize=True, seed=seed) for seed in range(20)]
    assert {round(one.lost, 6) for one in found} == {0.0, 0.4}


def test_the_line_of_two_sweeps(write_sweep, tmp_path):
    lr = {"kind": "interval", "low": 0.0, "high": 1.0, "log": False}
    search = {"seeds": [1], "steps": 30, "sampler": "tpe"}
    full = write_sweep(tmp_path / "full", {"lr": lr}, **search)
    pruned = write_sweep(tmp_path / "pruned", {"lr": lr}, pruner="MedianPruner", pruner_options=MEDIAN, **search)
    for i, values in enumerate([(0.5, 0.6, 0.7), (0.1, 0.1, 0.1), (0.2, 0.2, 0.2)]):
        curve = dict(zip((10, 20, 30), values, strict=True))
        full.trial({"lr": i / 10}, {1: values[-1]}, intermediate=curve)
        pruned.trial({"lr": i / 10}, {1: values[-1]}, intermediate=curve)
    found = replay_of(load_sweep(pruned.folder), load_sweep(full.folder))
    line = found.told
    assert line.startswith("MedianPruner replayed over the 3 full curves of full, in 100 orders: ")
    assert (
        line.endswith("the best point is kept in 100% of them, and the best one left is worse by 0.000.")
        and found.lost == 0
    )
    # Between two that were pruned, or from one without a pruner, there is nothing to replay.
    assert replay_of(load_sweep(full.folder), load_sweep(pruned.folder)) is None
    assert replay_of(load_sweep(pruned.folder), load_sweep(pruned.folder)) is None


def test_any_pruner_over_a_sweep_from_the_command_line(write_sweep, tmp_path, capsys):
    full = write_sweep(tmp_path / "full", {"lr": [0.0, 0.1, 0.2]}, seeds=[1], steps=30)
    for i, values in enumerate([(0.5, 0.6, 0.7), (0.1, 0.1, 0.1), (0.2, 0.2, 0.2)]):
        curve = dict(zip((10, 20, 30), values, strict=True))
        full.trial({"lr": i / 10}, {1: values[-1]}, intermediate=curve)
    command = [str(full.folder), "--replay", "PercentilePruner", "percentile=50", "n_startup_trials=1"]
    assert main(command) == 0 and capsys.readouterr().out.startswith("PercentilePruner replayed over the 3 full curves")
    # A name of conf/hydra/sweeper/pruner brings its arguments; a database has no folder, and a replay writes nothing.
    for name, kind in {"median": "MedianPruner", "asha": "SuccessiveHalvingPruner"}.items():
        assert main([str(full.folder), "--replay", name]) == 0 and capsys.readouterr().out.startswith(
            f"{kind} replayed"
        )
    assert pruner("median") == ("MedianPruner", {"n_startup_trials": 4, "n_warmup_steps": 0})
    options = parser().parse_args(["--storage", "sqlite:///sweeps.db", "--replay", "median"])
    assert places(options) == ("sqlite:///sweeps.db", None)
    for wrong, message in {
        ("Median",): "Median is no pruner of Optuna: HyperbandPruner, MedianPruner",
        ("MedianPruner", "warm_up=1"): "MedianPruner with {'warm_up': 1}: ",
        ("MedianPruner", "30"): "argument=value, got '30'",
        ("MedianPruner", "n_startup_trials=[1"): "--replay n_startup_trials=[1: a value cannot be read: ",
        ("PatientPruner", "patience=1"): "PatientPruner wraps another pruner: replay that one",
        ("wilcoxon",): "WilcoxonPruner compares whole runs of the same seed",
        ("ThresholdPruner", "lower=0.9"): "ThresholdPruner with {'lower': 0.9} prunes every point",
    }.items():
        assert main([str(full.folder), "--replay", *wrong]) == 1 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    "record, told",
    [
        ({"pruner": "MedianPruner"}, "swept was pruned by MedianPruner: a replay needs a sweep that ran without"),
        ({"objectives": ["heldout/pass_at_1"]}, "swept has no curves of heldout/pass_at_1: a pruner needs one"),
        ({}, "swept has 1 full curves: a pruner compares at least two points"),
    ],
)
def test_why_a_sweep_cannot_be_replayed(write_sweep, tmp_path, record, told):
    swept = write_sweep(tmp_path / "swept", {"lr": [0.0, 0.1]}, seeds=[1], steps=30, **record)
    swept.trial({"lr": 0.0}, {1: 0.7}, intermediate={10: 0.5, 30: 0.7})
    with pytest.raises(SweepError, match=told):
        replayed(load_sweep(swept.folder), "MedianPruner", {})
