"""What is text, what is a whole number, and what all else becomes."""

import datetime
import io
import math
import uuid
from collections import Counter
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch

from r1lab.task.columns import plain, question_of, text_of, whole_number


class Colour(StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (" 2 + 2? ", " 2 + 2? "),
        (np.str_("a"), "a"),
        (Colour.RED, "red"),
        (5, "5"),
        (5.0, "5"),
        (-0.0, "0"),
        (float(2**53), "9007199254740992"),
        (10**30, "1" + "0" * 30),
        (np.int64(-7), "-7"),
        (np.uint8(200), "200"),
        (np.float32(5.0), "5"),
        (Decimal("5.00"), "5"),
        (Decimal("1e20"), "1" + "0" * 20),
        (Fraction(6, 2), "3"),
    ],
)
def test_text_and_whole_numbers_are_text(value, text):
    for read in (text_of, question_of):
        assert read(value, "x") == text and type(read(value, "x")) is str


OTHERS = [
    None,
    True,
    np.bool_(False),
    float("nan"),
    float("inf"),
    -math.inf,
    4.5,
    1e20,
    np.float32(0.1),
    np.float64("nan"),
    Decimal("2.50"),
    Decimal("NaN"),
    Decimal("Infinity"),
    Fraction(1, 3),
    1 + 0j,
    b"4",
    bytearray(b"4"),
    datetime.date(2026, 1, 1),
    pd.Timestamp("2026-01-01"),
    pd.NaT,
    pd.NA,
    datetime.timedelta(1),
    uuid.UUID(int=1),
    ["4", "four"],
    ("4",),
    {"value": 4},
    {"4"},
    np.array(["4"]),
]


@pytest.mark.parametrize("value", OTHERS, ids=repr)
def test_all_else_is_rejected(value):
    with pytest.raises(ValueError, match="^row 3, column answer, must be text or a whole number, got .*: write it as"):
        text_of(value, "row 3, column answer,")
    with pytest.raises(ValueError, match="^row 3, column question, must be text,? or a"):
        question_of(value, "row 3, column question,")


def test_a_chat_of_one_user_turn_is_a_question():
    turn = {"role": "user", "content": "2 + 2?"}
    for chat in ([turn], (turn,), np.array([turn]), [turn | {"name": None}]):
        assert question_of(chat, "x") == "2 + 2?"
    system = {"role": "system", "content": "be brief"}
    wrong = [turn | {"role": "assistant"}, turn | {"content": ["2"]}, turn | {"name": "a"}, {"content": "2"}, "2"]
    for chat in ([], [turn, turn], [system, turn], turn, *([one] for one in wrong)):
        with pytest.raises(ValueError, match="x must be text"):
            question_of(chat, "x")


def test_half_a_surrogate_pair_is_no_text():
    for value in ("a\ud800", [{"role": "user", "content": "a\ud800"}]):
        with pytest.raises(ValueError, match="x has half of a surrogate pair at character 1"):
            question_of(value, "x")


def test_whole_numbers():
    assert [whole_number(value, "x") for value in (3, 3.0, np.int8(3), Decimal(3))] == [3] * 4
    for value in (2.5, True, "3", None, 2**31, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="x must be a whole number of at most 32 bits, got "):
            whole_number(value, "x")


PLAIN = [
    (datetime.date(2026, 1, 2), "2026-01-02"),
    (datetime.datetime(2026, 1, 2, 3, 4, 5, 6, datetime.UTC), "2026-01-02T03:04:05.000006+00:00"),
    (pd.Timestamp("2026-01-02T03:04:05.000000007"), "2026-01-02T03:04:05.000000007"),
    (np.datetime64("2026-01-02T03:04:05.000000007"), "2026-01-02T03:04:05.000000007"),
    (np.array(["2026-01-02", "NaT"], "datetime64[D]"), ["2026-01-02", None]),
    (pd.NaT, None),
    (datetime.time(3, 4), "03:04:00"),
    (datetime.timedelta(minutes=1, microseconds=500), 60.0005),
    (pd.Timedelta("90s"), 90.0),
    (pd.Timedelta("12:34:56.123456789"), 45296.123456789),
    (pd.Timedelta(-1, "ns"), -1e-9),
    (np.timedelta64(1500, "ms"), 1.5),
    (Decimal("24"), 24),
    (Decimal("0.10"), 0.1),
    (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (np.int64(3), 3),
    (np.float32(0.5), 0.5),
    (np.bool_(True), True),
    (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
    ({3, 1, 2}, [1, 2, 3]),
    ((1, (2,)), [1, [2]]),
    (Counter("aa"), {"a": 2}),
    (Colour.RED, "red"),
    (bytearray(b"a"), b"a"),
    ({"tests": [{"at": datetime.date(2026, 1, 2), "none": None}]}, {"tests": [{"at": "2026-01-02", "none": None}]}),
    (2**70, 2**70),
    (True, True),
]


@pytest.mark.parametrize(("value", "expected"), PLAIN, ids=[repr(value) for value, _ in PLAIN])
def test_plain_data_loads_safely(value, expected):
    got = plain(value, "x")
    assert got == expected and type(got) is type(expected)
    torch.save(got, file := io.BytesIO())
    file.seek(0)
    assert torch.load(file, weights_only=True) == expected


def test_not_a_number_stays():
    assert all(math.isnan(plain(value, "x")) for value in (float("nan"), np.float64("nan"), Decimal("NaN")))


TOO_FINE = [
    *(object(), 10**700, 1 + 1j, Decimal("0." + "1" * 30), np.longdouble(1)),
    *(pd.Timedelta(9 * 10**18 + 7, "ns"), datetime.timedelta(days=10**8, microseconds=7)),
]


@pytest.mark.parametrize("value", TOO_FINE, ids=lambda value: type(value).__name__)
def test_what_plain_data_cannot_hold_is_rejected(value):
    with pytest.raises(ValueError, match=r"^row 1, column x\.y\[0\] holds .*, which no checkpoint can store exactly"):
        plain({"y": [value]}, "row 1, column x")
