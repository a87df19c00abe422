from fractions import Fraction

import pytest

from r1lab.reward.checker import Choice, Exact, Numeric, number
from r1lab.types import Prompt


def prompt(answer: str) -> Prompt:
    return Prompt((1,), "q", answer)


def test_exact():
    assert Exact()(prompt("red  fox"), " red\nfox ") == 1.0
    assert Exact()(prompt("red fox"), "Red fox") == Exact()(prompt("7"), "7.0") == Exact()(prompt("7"), "７") == 0.0
    assert Exact(ignore_case=True)(prompt("Red Kelvin"), "rED kELVIN") == 1.0
    for right, answer in (("k", "\u212a"), ("s", "\u017f"), ("ss", "ß"), ("ä", "Ä")):
        assert Exact(ignore_case=True)(prompt(right), answer) == 0.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("-1,234.5", Fraction("-1234.5")),
        ("+.5", Fraction(1, 2)),
        ("3 / 4", Fraction(3, 4)),
        ("2.5e-3", Fraction(1, 400)),
        ("1e400", 10**400),
    ],
)
def test_numbers(text, value):
    assert number(text) == value


@pytest.mark.parametrize(
    "text",
    ["", "seven", "7 8", "7//2", "9**9", "1/0", "1e9999", "12,34", "0x10", "1_000", "nan", "inf", "--7", "7.5.1", "٧",
     "７", "7" * 101, "(7)", "7%", "1/2/3", "."],
)  # fmt: skip
def test_no_numbers(text):
    assert number(text) is None


def test_numeric_within_a_tolerance():
    right = prompt("200")
    assert Numeric()(right, "200.0") == 1.0
    assert Numeric()(right, "200.0000000001") == 0.0
    assert [Numeric(relative=0.01)(right, text) for text in ("202", "198", "202.1", "seven")] == [1.0, 1.0, 0.0, 0.0]
    assert Numeric(absolute=0.5)(right, "200.5") == 1.0
    assert Numeric(relative=0.01)(prompt("0"), "0.001") == 0.0
    with pytest.raises(ValueError, match="'red' is no number; take reward=exact"):
        Numeric()(prompt("red"), "7")
    with pytest.raises(ValueError, match="at least 0"):
        Numeric(relative=-1)


@pytest.mark.parametrize(
    ("right", "at_the_bound", "options"),
    [
        ("1", "1.3", {"absolute": 0.3}),
        ("1", "1.7", {"absolute": 0.7}),
        ("100", "115", {"relative": 0.15}),
        ("1000000", "1000001", {"relative": 1e-6}),
    ],
)
def test_bounds_are_decimal(right, at_the_bound, options):
    assert Numeric(**options)(prompt(right), at_the_bound) == 1.0
    assert Numeric(**options)(prompt(right), f"{at_the_bound}{'.' * ('.' not in at_the_bound)}001") == 0.0


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), True, None])
def test_tolerances_that_are_none(value):
    with pytest.raises(ValueError, match="absolute=.* of reward=numeric must be a number of at least 0"):
        Numeric(absolute=value)


def test_choice():
    assert [Choice()(prompt("B"), text) for text in ("B", "b", "(B)", "B.", "B)", " B:")] == [1.0] * 6
    wrong = ("A", "A B", "B or C", "BC", "", "B.)", "Β", "Ｂ", "the answer is B", "**B**")  # two look-alikes
    assert [Choice()(prompt("(b)"), text) for text in wrong] == [0.0] * len(wrong)
    with pytest.raises(ValueError, match="'42' is no letter"):
        Choice()(prompt("42"), "B")
