from r1lab.analysis.number import change, counted, interval, number, p_value
from r1lab.metric.mean_interval import MeanInterval, mean_interval


def test_digits_by_size():
    assert [number(v) for v in (0.71234, 0.0, 12.345, 4321.6, 0.00123, 5.0)] == [
        "0.712", "0.000", "12.3", "4322", "0.00123", "5.000",
    ]  # fmt: skip
    assert number(None) == number(float("nan")) == "–"
    assert number(-0.0001, like=0.5) == "0.000" and number(-0.0001, like=0.5, sign=True) == "+0.000"


def test_intervals():
    assert interval(MeanInterval(0.02, -0.001, 0.041, 0.1, 3), sign=True) == "+0.020 [-0.001, +0.041]"
    assert change(MeanInterval(0.002, -0.01, 0.014, 0.1, 3)) == "+0.002"
    assert interval(mean_interval([[0.5]])) == "0.500" and interval(mean_interval([])) == "–"


def test_words():
    assert [p_value(p) for p in (None, 0.0004, 0.0312, 1.0)] == ["–", "<0.001", "0.031", "1.000"]
    assert counted(1, "seed") == "1 seed" and counted(0, "seed") == "0 seeds"
