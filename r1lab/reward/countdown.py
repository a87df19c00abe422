"""Countdown (TinyZero's task): reach a target from given numbers with + - * / and brackets, each number at most once.

A parser of its own: graders that call `eval` on such an answer are hung by `9**9**9` and cheated by `7//2`.
"""

import operator
import re
from collections import Counter
from collections.abc import Iterable
from fractions import Fraction

from r1lab.types import Prompt

_TOKEN = re.compile(r"\s*([0-9]+|[-+*/()])")
_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
_RANKS = {"+": 1, "-": 1, "*": 2, "/": 2}
_MAX_LENGTH = 500


class Countdown:
    """1.0 where the answer is an expression of the prompt's columns `numbers` that equals its `target`, else 0.0.

    use_all: every number exactly once.
    """

    def __init__(self, use_all: bool = False):
        self.use_all = use_all

    def __call__(self, prompt: Prompt, answer: str) -> float:
        if missing := [column for column in ("numbers", "target") if column not in prompt.columns]:
            raise ValueError(
                f"countdown needs the columns numbers and target of a prompt; {', '.join(missing)} is missing"
            )
        numbers = prompt.columns["numbers"]
        tokens = tokenize(answer)
        if tokens is None or not _allowed(tokens, numbers, self.use_all):
            return 0.0
        return float(value(tokens) == Fraction(str(prompt.columns["target"])))


def tokenize(text: str) -> list[str] | None:
    """Numbers, signs and brackets; None where there is anything else, or more than 500 characters."""
    text = text.rstrip()
    tokens, place = [], 0
    while place < len(text) <= _MAX_LENGTH:
        found = _TOKEN.match(text, place)
        if found is None:
            return None
        tokens.append(found[1])
        place = found.end()
    return tokens or None


def _allowed(tokens: Iterable[str], numbers: Iterable[int], use_all: bool) -> bool:
    """Whether no number is used that is not there, nor more often. Compared as text: 007 is not 7."""
    used, given = Counter(token for token in tokens if token.isdigit()), Counter(str(n) for n in numbers)
    return used == given if use_all else used <= given


def value(tokens: Iterable[str]) -> Fraction | None:
    """The exact value of an expression; None where it is none, or divides by zero. No signs before numbers."""
    values: list[Fraction] = []
    waiting: list[str] = []
    behind_value = False

    def apply() -> None:
        right, left = values.pop(), values.pop()
        values.append(_OPERATIONS[waiting.pop()](left, right))

    try:
        for token in tokens:
            # A value or `(` may stand only where no value precedes it, a sign or `)` only behind one.
            if behind_value == (token == "(" or token.isdigit()):
                return None
            if token.isdigit():
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
            behind_value = token == ")" or token.isdigit()
        if not behind_value:
            return None
        while waiting and waiting[-1] != "(":
            apply()
    except ZeroDivisionError:
        return None
    return None if waiting else values[0]
