from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from r1lab.reward.countdown import Countdown, tokenize, value
from r1lab.types import Prompt

PROMPT = Prompt((1,), "q", "", columns={"numbers": [3, 5, 7, 7], "target": 22})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", 7),
        ("2 + 3 * 4", 14),
        ("(2 + 3) * 4", 20),
        ("10 - 4 - 3", 3),
        ("8 / 4 / 2", 1),
        ("1 / 3 + 1 / 6", Fraction(1, 2)),
        ("((1))", 1),
        ("2*(3-(4+1))", -4),
        # Not expressions, or without a value.
        ("", None),
        ("()", None),
        ("1 2", None),
        ("1 +", None),
        ("-1", None),
        ("1 - -1", None),
        ("(1", None),
        ("1)", None),
        ("2(3)", None),
        ("(2)3", None),
        ("1 / 0", None),
        ("1 / (2 - 2)", None),
        ("9**9**9", None),
        ("7//2", None),
        (")1(", None),
    ],
)
def test_value(text, expected):
    assert value(tokenize(text) or []) == expected


@pytest.mark.parametrize(
    "text", ["", " ", "1.5", "1e3", "x", "2^3", "7%2", "1,2", "22 = 22", "٣", "３", "3 × 5", "1" * 501]
)
def test_not_tokens(text):
    assert tokenize(text) is None


def test_right():
    assert [Countdown()(PROMPT, text) for text in ("3*5+7", "7 + 3 * 5", "(7+7)+3+5", " 3*(5) + 7")] == [1.0] * 4


@pytest.mark.parametrize(
    "text",
    ["22", "3+5", "3*5+7+0", "3*3+5+7", "7+7+7+1", "3*5+07", "3*5+7=22", "__import__('os')", "(" * 200 + "22", "15+7"],
)
def test_wrong(text):
    assert Countdown()(PROMPT, text) == 0.0


def test_exact_rationals():
    prompt = Prompt((1,), "q", "", columns={"numbers": [8, 3, 8, 3], "target": 24})
    assert Countdown(use_all=True)(prompt, "8/(3-8/3)") == 1.0  # floats give 23.99...


def test_use_all():
    assert Countdown(use_all=True)(PROMPT, "3*5+7") == 0.0
    assert Countdown(use_all=True)(PROMPT, "7+7+3+5") == 1.0


@pytest.mark.parametrize(
    "numbers", [[3.0, 4.0], ["3", " 4 "], (Decimal(3), np.int64(4)), np.array([3.0, 4.0]), ["03", 4]]
)
@pytest.mark.parametrize("target", [12, 12.0, "12", "12.0", np.float32(12)])
def test_numbers_in_other_types(numbers, target):
    prompt = Prompt((1,), "q", "", columns={"numbers": numbers, "target": target})
    assert [Countdown()(prompt, text) for text in ("3 * 4", "3 + 4", "3.0 * 4.0", "03 * 4")] == [1.0, 0.0, 0.0, 0.0]


def test_targets_that_are_no_whole_numbers_are_exact():
    prompt = Prompt((1,), "q", "", columns={"numbers": [1, 10], "target": 0.1})
    assert Countdown()(prompt, "1 / 10") == 1.0


def test_numbers_below_zero():
    prompt = Prompt((1,), "q", "", columns={"numbers": [-3, 4, 2], "target": -12})
    assert [Countdown()(prompt, text) for text in ("-3 * 4", "4*-3", "(-3) * 4", "4 * (-3)")] == [1.0] * 4
    wrong = ("3 * 4", "-4 * 3", "0 - 12", "-(3 * 4)", "- 3 * 4", "--3 * 4", "4 - 3", "2 * -3 - -3 * 2")
    assert [Countdown()(prompt, text) for text in wrong] == [0.0] * len(wrong)
    assert (
        Countdown(use_all=True)(Prompt((1,), "q", "", columns={"numbers": [-3, 4, 2], "target": 5}), "4 - -3 - 2") == 1
    )
    # Where no given number has a sign, an answer has none either.
    assert Countdown()(PROMPT, "-3 + 5*5") == Countdown()(PROMPT, "-7 + 3*5 + 7 + 7") == 0.0


@pytest.mark.parametrize("numbers", [34, "34", 34.0])
def test_number_without_a_list_is_a_list_of_one(numbers):
    prompt = Prompt((1,), "q", "", columns={"numbers": numbers, "target": 34})
    assert Countdown()(prompt, "34") == 1.0
    assert Countdown()(prompt, "3 * 4") == Countdown()(prompt, "30 + 4") == 0.0


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"numbers": "3 4", "target": 12}, "column numbers holds '3 4', and it must be a list of whole numbers"),
        ({"numbers": "[3, 4]", "target": 12}, "column numbers"),
        ({"numbers": [], "target": 12}, "column numbers"),
        ({"numbers": [3.5, 4], "target": 12}, "column numbers holds '\\[3.5, 4\\]'"),
        ({"numbers": [3, None], "target": 12}, "column numbers"),
        ({"numbers": [3, float("nan")], "target": 12}, "column numbers"),
        ({"numbers": [True, 4], "target": 4}, "column numbers"),
        ({"numbers": {"a": 3}, "target": 3}, "column numbers"),
        ({"numbers": [[3, 4]], "target": 12}, "column numbers"),
        ({"numbers": [3, 4], "target": "twelve"}, "column target holds 'twelve', and it must be a number"),
        ({"numbers": [3, 4], "target": float("inf")}, "column target"),
    ],
)
def test_columns_that_cannot_be_meant(columns, message):
    with pytest.raises(ValueError, match=message):
        Countdown().check(Prompt((1,), "q", "", columns=columns))


def test_columns_are_asked_for():
    with pytest.raises(ValueError, match="numbers and target of a prompt; target is missing"):
        Countdown()(Prompt((1,), "q", "", columns={"numbers": [1]}), "1")
