"""Countdown (TinyZero's task): reach a target from given numbers with + - * / and brackets, each number at most once.

A parser of its own: graders that call `eval` on such an answer are hung by `9**9**9` and cheated by `7//2`.
"""

import operator
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

from r1lab.types import Prompt

_TOKEN = re.compile(r"\s*([0-9]+|[-+*/()])")
_SIGNED = re.compile(r"\s*(-[0-9]+)")
_NUMBER = re.compile(r"-?[0-9]+")
_DECIMAL = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3})?")
_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
_RANKS = {"+": 1, "-": 1, "*": 2, "/": 2}
_MAX_LENGTH = 500


class Countdown:
    """1.0 where the answer is an expression of the prompt's columns `numbers` that equals its `target`, else 0.0.

    `numbers` is a list of whole numbers and `target` a number. Both may be floats, as Parquet holds them (3.0), or text
    ("3"). A number that stands alone is a list of one. A given number below 0 is written with its sign: `4 + -3`,
    `(-3) * 4`.

    use_all: every number exactly once.
    """

    def __init__(self, use_all: bool = False):
        self.use_all = use_all

    def __call__(self, prompt: Prompt, answer: str) -> float:
        numbers, target = self.check(prompt)
        tokens = tokenize(answer, signed=min(numbers) < 0)
        if tokens is None or not _allowed(tokens, numbers, self.use_all):
            return 0.0
        return float(value(tokens) == target)

    def check(self, prompt: Prompt) -> tuple[list[int], Fraction]:
        """The numbers and the target of a prompt.

        Raises:
            ValueError: for a column that is missing, or holds something else.
        """
        if missing := [column for column in ("numbers", "target") if column not in prompt.columns]:
            raise ValueError(
                f"countdown needs the columns numbers and target of a prompt; {', '.join(missing)} is missing"
            )
        given, told = prompt.columns["numbers"], prompt.columns["target"]
        listed = isinstance(given, Iterable) and not isinstance(given, (str, bytes, Mapping))
        numbers = [_exact(number) for number in (given if listed else [given])]
        if not numbers or any(number is None or number.denominator > 1 for number in numbers):
            raise ValueError(
                f"reward=countdown: the column numbers holds {str(given)[:100]!r}, and it must be a list of whole "
                "numbers, such as [3, 4]; correct that row of the data"
            )
        target = _exact(told)
        if target is None:
            raise ValueError(
                f"reward=countdown: the column target holds {str(told)[:100]!r}, and it must be a number; correct that "
                "row of the data"
            )
        return [int(number) for number in numbers], target


def _exact(number: Any) -> Fraction | None:
    """A number or its text as the fraction of its decimal digits; None for anything else."""
    text = str(number).strip()
    return Fraction(text) if not isinstance(number, bool) and _DECIMAL.fullmatch(text) else None


def tokenize(text: str, signed: bool = False) -> list[str] | None:
    """Numbers, signs and brackets; None where there is anything else, or more than 500 characters.

    signed: a number below 0 is one token with its sign, wherever a number may stand.
    """
    text = text.rstrip()
    tokens: list[str] = []
    place = 0
    while place < len(text) <= _MAX_LENGTH:
        starts = signed and not (tokens and _ends_value(tokens[-1]))
        found = starts and _SIGNED.match(text, place) or _TOKEN.match(text, place)
        if not found:
            return None
        tokens.append(found[1])
        place = found.end()
    return tokens or None


def _is_number(token: str) -> bool:
    return _NUMBER.fullmatch(token) is not None


def _ends_value(token: str) -> bool:
    return token == ")" or _is_number(token)


def _allowed(tokens: Iterable[str], numbers: Iterable[int], use_all: bool) -> bool:
    """Whether no number is used that is not there, nor more often. Compared as text: 007 is not 7."""
    used, given = Counter(filter(_is_number, tokens)), Counter(str(n) for n in numbers)
    return used == given if use_all else used <= given


def value(tokens: Iterable[str]) -> Fraction | None:
    """The exact value of an expression; None where it is none, or divides by zero.

    Signs before numbers are those of `tokenize`, before brackets there are none.
    """
    values: list[Fraction] = []
    waiting: list[str] = []
    behind_value = False

    def apply() -> None:
        right, left = values.pop(), values.pop()
        values.append(_OPERATIONS[waiting.pop()](left, right))

    try:
        for token in tokens:
            # A value or `(` may stand only where no value precedes it, a sign or `)` only behind one.
            if behind_value == (token == "(" or _is_number(token)):
                return None
            if _is_number(token):
                values.append(Fraction(int(token)))
            elif token == "(":
                waiting.append(token)
            else:
                while waiting and waiting[-1] != "(" and (token == ")" or _RANKS[waiting[-1]] >= _RANKS[token]):
                    apply()
                if token == ")":
                    if not waiting:
                        return None
                    waiting.pop()
                else:
                    waiting.append(token)
            behind_value = _ends_value(token)
        if not behind_value:
            return None
        while waiting and waiting[-1] != "(":
            apply()
    except ZeroDivisionError:
        return None
    return None if waiting else values[0]
