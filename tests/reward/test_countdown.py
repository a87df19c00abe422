from fractions import Fraction

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


def test_columns_are_asked_for():
    with pytest.raises(ValueError, match="numbers and target of a prompt; target is missing"):
        Countdown()(Prompt((1,), "q", "", columns={"numbers": [1]}), "1")
