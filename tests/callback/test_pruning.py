import csv
from types import SimpleNamespace

import pytest

from r1lab.callback.pruning import Pruning
from r1lab.run_folder import read_summary

METRIC = "validation/pass_at_1"


def trainer(**given):
    """What of a trainer the callback looks at."""
    usual = {
        "sanity_checking": False,
        "state": SimpleNamespace(fn="fit"),
        "callback_metrics": {METRIC: 0.25, "validation/format": 0.5, "loss/kl": 0.1},
        "is_global_zero": True,
        "strategy": SimpleNamespace(broadcast=lambda verdict: verdict),
        "should_stop": False,
    }
    return SimpleNamespace(**usual | given)


def called(report, **given):
    callback, at = Pruning(metric=METRIC, report=report), trainer(**given)
    callback.on_validation_end(at, SimpleNamespace(step=7))
    return callback.pruned, at.should_stop


@pytest.mark.parametrize("verdict", [True, False])
def test_the_value_and_the_step_are_reported_and_the_verdict_is_heeded(verdict):
    told = []
    assert called(lambda value, step: told.append((value, step)) or verdict) == (verdict, verdict)
    assert told == [(0.25, 7)]


def test_another_callbacks_stop_stays():
    assert called(lambda *_: False, should_stop=True) == (False, True)


def test_only_validations_of_a_fit_count():
    def never(value, step):
        raise AssertionError

    assert called(never, sanity_checking=True) == (False, False)
    assert called(never, state=SimpleNamespace(fn="validate")) == (False, False)


def test_other_ranks_report_nothing_and_hear_the_verdict():
    def never(value, step):
        raise AssertionError

    strategy = SimpleNamespace(broadcast=lambda verdict: True)  # rank 0's
    assert called(never, is_global_zero=False, strategy=strategy) == (True, True)


def test_an_objective_that_is_not_measured_is_named():
    with pytest.raises(ValueError, match="objective=validation/pass_at_1 .* there are validation/format$"):
        called(lambda *_: False, callback_metrics={"validation/format": 1.0, "loss/kl": 0.0})


def prune_at(step):
    return lambda value, at: at >= step


def test_a_run_that_is_pruned_ends_there(train_small, tmp_path):
    """After the validation of its second step of six, without the scores at the end, and says so."""
    pruning = "{_target_: r1lab.callback.pruning.Pruning, metric: validation/pass_at_1, report: REPORT}"
    report = "{_target_: tests.callback.test_pruning.prune_at, step: 2}"
    train_small(
        tmp_path, "trainer.max_steps=6", "show=false", "callback.samples.shown=0",
        f"+callback.pruning={pruning.replace('REPORT', report)}",
    )  # fmt: skip
    summary = read_summary(tmp_path)
    assert (summary["status"], summary["steps"], "after" in summary) == ("pruned", 2, False)
    assert summary["objective"] is not None and summary["train_seconds"] > 0
    with open(tmp_path / "metrics.csv") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2"]
