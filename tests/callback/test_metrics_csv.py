import csv
import math

import pytest

from r1lab.callback.metrics_csv import MetricsCSV


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_one_row_a_step_with_its_validation(tmp_path, fit):
    fit(tmp_path)
    rows = rows_of(tmp_path / "metrics.csv")
    assert (tmp_path / "metrics.csv").read_text().startswith("step,")
    assert [int(r["step"]) for r in rows] == list(range(1, 13))
    assert {r["step"]: r["validation/pass_at_1"] for r in rows if r["validation/pass_at_1"]} == {
        "4": "0.25",
        "8": "0.75",
        "12": "0.5",
    }
    # rollouts are made before steps 1, 3, 5, ...: mean reward 1.5 + steps done, over 20
    assert [r["reward/accuracy"] for r in rows[:4]] == ["0.075", "0.075", "0.175", "0.175"]


def test_rows_are_there_while_the_run_goes_on(tmp_path, fit):
    seen = {}
    fit(tmp_path, events={"step begins": lambda step: seen.update({step: read_or_none(tmp_path)})})
    # when step 6 (5 done) begins, the row of step 4 is there at the latest
    assert [int(r["step"]) for r in seen[5]][:4] == [1, 2, 3, 4]


def read_or_none(folder):
    path = folder / "metrics.csv"
    return rows_of(path) if path.exists() else None


@pytest.fixture
def metrics(tmp_path):
    metrics = MetricsCSV(tmp_path / "metrics.csv")
    metrics.keep_until(0)
    return metrics


def test_new_columns_go_to_the_end_and_old_rows_have_no_value(metrics):
    metrics.start_row(1, {"a": 1.0})
    metrics.start_row(2, {"a": 2.0, "b": 0.1})
    metrics.write()
    assert metrics.path.read_text() == "step,a,b\n1,1.0,\n2,2.0,0.1\n"


def test_a_row_that_is_written_can_still_grow(metrics):
    metrics.start_row(1, {"a": 1.0})
    metrics.write()
    metrics.extend_row(1, {"a": 3.0})
    metrics.write()
    assert metrics.path.read_text() == "step,a\n1,3.0\n"
    metrics.extend_row(1, {"b": 2.0})
    metrics.write()
    assert metrics.path.read_text() == "step,a,b\n1,3.0,2.0\n"


def test_resume_drops_later_rows_and_a_torn_line(metrics, tmp_path):
    metrics.path.write_text("step,a\n1,1.0\n2,2.0\n3,3.0\n4,4")
    again = MetricsCSV(metrics.path)
    again.keep_until(2)
    assert metrics.path.read_text() == "step,a\n1,1.0\n2,2.0\n"
    again.extend_row(2, {"b": 5.0})  # the validation of the restored step
    again.start_row(3, {"a": 7.0})
    again.write()
    assert metrics.path.read_text() == "step,a,b\n1,1.0,\n2,2.0,5.0\n3,7.0,\n"
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.csv"]


def test_values_come_back_as_they_were(metrics):
    metrics.start_row(1, {"third": 1 / 3, "small": 3e-6, "none": math.nan, "large": math.inf})
    metrics.write()
    # float32's shortest form: 0.33333334, where float64's would be 0.333333343267...
    assert metrics.path.read_text().splitlines()[1] == "1,0.33333334,3e-06,nan,inf"


def test_a_full_disk_does_not_hide_the_first_error(tmp_path, fit, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    def fail(step):
        if step == 2:
            monkeypatch.setattr("r1lab.callback.metrics_csv.append_lines", full)
            raise ArithmeticError("first")

    with pytest.raises(ArithmeticError, match="first"):
        fit(tmp_path, events={"step begins": fail})
