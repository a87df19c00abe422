import optuna
import pytest

from r1lab.analysis.sweep import SweepError, load_sweep

SCORE = "validation/pass_at_1"


def test_tidy_tables(beta_sweep):
    sweep = load_sweep(beta_sweep.folder)
    assert sweep.settings == [{"loss.beta": 0.0}, {"loss.beta": 0.001}, {"loss.beta": 0.1}]  # by level, not by number
    assert sweep.settings[sweep.baseline] == {"loss.beta": 0.001} and sweep.baseline_note == ""
    assert sweep.points[["trial", "point", "loss.beta", SCORE]].to_numpy().tolist() == [
        [0, 1, 0.001, pytest.approx(0.6)],
        [1, 2, 0.1, pytest.approx(0.4)],
        [2, 0, 0.0, pytest.approx(0.8)],
    ]
    assert len(sweep.seeds) == 9 and sweep.seeds["counted"].all() and not sweep.is_search and sweep.maximize(SCORE)
    assert sweep.seeds["after/heldout/pass_at_1"].tolist() == sweep.seeds[SCORE].tolist()


def test_values_of_all_kinds(write_sweep, tmp_path):
    kl = {"kind": "choice", "levels": [None, "k1", True, 8]}
    writer = write_sweep(tmp_path / "kinds", {"loss.kl": kl, "loss.beta": [0.1, 0.2]})
    writer.trial({"loss.kl": None}, {1: 0.5})
    writer.trial({"loss.kl": "k1", "loss.beta": 0.1}, {1: 0.5})
    writer.trial({"loss.kl": True, "loss.beta": 0.2}, {1: 0.5})
    sweep = load_sweep(writer.folder)
    assert sweep.settings[0] == {"loss.kl": None} and sweep.levels("loss.kl") == [None, "k1", True]
    assert sweep.points["loss.kl"].tolist() == [None, "k1", True]
    assert sweep.points["loss.beta"].isna().tolist() == [True, False, False]


def test_what_counts(write_sweep, tmp_path):
    writer = write_sweep(tmp_path / "states", {"loss.beta": [0.0, 0.1, 0.2]})
    writer.trial({"loss.beta": 0.0}, {1: 0.1, 2: 0.2})
    writer.trial({"loss.beta": 0.0}, {1: 0.3})  # repeats seed 1: newer, so it counts instead
    writer.trial({"loss.beta": 0.1}, {1: 0.5}, "RUNNING")
    writer.trial({"loss.beta": 0.1}, {2: 0.5}, "FAIL", error="loss is nan")
    writer.trial({"loss.beta": 0.2}, {1: 0.5}, "PRUNED", pruned={"seed_index": 1, "step": 20})
    writer.trial({"loss.beta": 0.2}, {1: writer.note(float("nan"))}, "RUNNING")
    writer.trial({}, {}, "WAITING")
    sweep = load_sweep(writer.folder)
    counted = sweep.seeds[sweep.seeds["counted"]]
    assert list(zip(counted["trial"], counted["seed"], strict=True)) == [(0, 2), (1, 1), (2, 1)]
    assert sweep.points["point"].isna().tolist() == [False] * 6 + [True]
    assert sweep.points["pruned_step"].tolist()[4] == 20 and sweep.points["error"].tolist()[3] == "loss is nan"


def test_blocks_are_replications(write_sweep, tmp_path):
    params = {"loss.beta": [0.0, 0.1], "model.name": ["a", "b"]}
    writer = write_sweep(
        tmp_path / "blocks", params, blocks=["model.name"], baseline={"loss.beta": 0, "model.name": "a"}
    )
    for base in ("a", "b"):
        writer.trial({"loss.beta": 0.0, "model.name": base}, {1: writer.note(0.5, curve=[0.2, 0.5])})
    sweep = load_sweep(writer.folder)
    assert sweep.settings == [{"loss.beta": 0.0}] and sweep.baseline == 0 and sweep.treatments == ["loss.beta"]
    assert sweep.curves[["block", "step", SCORE]].to_numpy().tolist() == [
        ["a", 50, 0.2], ["a", 100, 0.5], ["b", 50, 0.2], ["b", 100, 0.5],
    ]  # fmt: skip
    assert sweep.curves["counted"].all()


def test_nothing_to_sum_up(write_sweep, tmp_path):
    writer = write_sweep(tmp_path / "empty", {"loss.beta": [0.0]})
    with pytest.raises(SweepError, match="no finished trial yet: no trial at all"):
        load_sweep(writer.folder)
    writer.trial({"loss.beta": 0.0}, {}, "RUNNING")
    with pytest.raises(SweepError, match="no finished trial yet: 1 running"):
        load_sweep(writer.folder)
    writer.study.add_trial(optuna.trial.create_trial(value=0.5))
    with pytest.raises(SweepError, match="none noted the value of a seed"):
        load_sweep(writer.folder)


def test_a_study_of_something_else(tmp_path):
    url = f"sqlite:///{tmp_path}/other.db"
    optuna.create_study(study_name="other", storage=url)
    with pytest.raises(SweepError, match="other was not made by a sweep of r1lab"):
        load_sweep(url)


def test_a_trial_that_others_went_on_with_counts_no_more(write_sweep, tmp_path):
    writer = write_sweep(tmp_path / "more", {"a": [1, 2]}, seeds=[1, 2, 3])
    writer.trial({"a": 1}, {1: 0.1})
    writer.trial({"a": 2}, {1: 0.2})
    writer.trial({"a": 1}, {1: 0.1, 2: 0.3, 3: 0.5}, goes_on=0)
    writer.trial({"a": 2}, {1: 0.2, 2: 0.4}, "RUNNING", goes_on=1)
    sweep = load_sweep(writer.folder)
    assert sweep.points["trial"].tolist() == [1, 2, 3]
    assert sweep.seeds[sweep.seeds["counted"]].groupby("point")["validation/pass_at_1"].apply(list).tolist() == [
        [0.1, 0.3, 0.5],
        [0.2, 0.4],
    ]
