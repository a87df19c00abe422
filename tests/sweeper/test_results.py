from pathlib import Path

import pytest

from r1lab.run_folder import write_summary
from r1lab.sweeper.results import curve, run_record, seed_key

SUMMARY = {
    "status": "finished", "train_seconds": 1.5, "evaluate_seconds": {"before": 0.1, "after": 0.2}, "steps": 4,
    "before": {"heldout": {"pass_at_1": 0.1}}, "after": {"heldout": {"pass_at_1": 0.3}}, "commit": "abc",
    "device": "cpu", "versions": {"torch": "2"}, "config_hash": "0",
}  # fmt: skip
METRICS = """step,loss/kl,time/step_seconds,validation/pass_at_1
1,0.1234567891,0.5,
2,,0.5,0.25
3,0.3,0.5,
4,0.4,0.5,0.3333333333
"""


@pytest.fixture
def folder(tmp_path):
    write_summary(tmp_path, SUMMARY)
    (tmp_path / "metrics.csv").write_text(METRICS)
    return tmp_path


def test_the_record_of_a_run(folder):
    record = run_record(folder, 0.3, 2.3456)
    assert record["value"] == 0.3 and record["seconds"] == 2.35
    assert record["after"] == SUMMARY["after"] and record["commit"] == "abc" and record["steps"] == 4
    assert not {"status", "versions", "config_hash"} & set(record)
    assert record["curve"] == {
        "step": [2, 4],
        "loss/kl": [None, 0.4],
        "validation/pass_at_1": [0.25, 0.333333],
    }
    assert type(record["curve"]["step"][0]) is int


def test_the_path_is_that_from_here_where_it_lies_below(folder, monkeypatch):
    assert run_record(folder, 0.3, 1.0)["run"] == str(folder)
    monkeypatch.chdir(folder.parent)
    assert run_record(folder, 0.3, 1.0)["run"] == folder.name
    assert run_record(Path(folder.name), 0.3, 1.0)["run"] == folder.name


def test_a_run_without_validations_keeps_its_last_step(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,loss/kl\n1,0.5\n2,0.25\n")
    assert curve(tmp_path) == {"step": [2], "loss/kl": [0.25]}


def test_a_run_that_wrote_nothing(tmp_path):
    record = run_record(tmp_path / "none", [0.1, 2], 1.0)
    assert record["value"] == [0.1, 2] and record["curve"] == {}


def test_the_key_of_a_seed():
    assert seed_key(3) == "seed/3"
