"""Checkers of answers, (prompt, answer) -> 1.0 or 0.0: what is not recognised is wrong.

Digits and letters are those of ASCII: look-alikes are other characters.
"""

import re
import string
from fractions import Fraction

from r1lab.types import Prompt

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_NUMBER = re.compile(rf"([-+]?(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{{1,3}})?)(?:\s*/\s*([0-9]+))?")
_MAX_LENGTH = 100
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_CHOICE = re.compile(r"\(?([A-Za-z])\)?[.:]?")


class Exact:
    """The same text, white space at the ends and its amount between words aside.

    ignore_case: of the letters of ASCII; other alphabets have letters whose lower case is another's.
    """

    def __init__(self, ignore_case: bool = False):
        self.ignore_case = ignore_case

    def __call__(self, prompt: Prompt, answer: str) -> float:
        return float(self._plain(answer) == self._plain(prompt.answer))

    def _plain(self, text: str) -> str:
        text = " ".join(text.split())
        return text.translate(_LOWER) if self.ignore_case else text


class Numeric:
    """A number within `max(absolute, relative * |right|)` of the right one, compared as exact fractions.

    The tolerances count by their decimal digits: 0.1 is 1/10, not the nearest float. Numbers are `-7`, `1,234.5`,
    `2.5e-3` and `3/4`, up to 100 characters.
    """

    def __init__(self, relative: float = 0.0, absolute: float = 0.0):
        self.relative, self.absolute = _tolerance("relative", relative), _tolerance("absolute", absolute)

    def __call__(self, prompt: Prompt, answer: str) -> float:
        right, given = self.check(prompt), number(answer)
        return float(given is not None and abs(given - right) <= max(self.absolute, self.relative * abs(right)))

    def check(self, prompt: Prompt) -> Fraction:
        """The right answer. Raises ValueError where it is no number."""
        right = number(prompt.answer)
        if right is None:
            raise ValueError(f"the right answer {prompt.answer[:100]!r} is no number; take reward=exact")
        return right


def _tolerance(name: str, value: float) -> Fraction:
    exact = number(str(value))
    if exact is None or exact < 0:
        raise ValueError(f"{name}={value!r} of reward=numeric must be a number of at least 0")
    return exact


def number(text: str) -> Fraction | None:
    """The number that a text is, None where it is none."""
    text = text.strip()
    found = _NUMBER.fullmatch(text) if len(text) <= _MAX_LENGTH else None
    if found is None or (found[2] is not None and int(found[2]) == 0):
        return None
    return Fraction(found[1].replace(",", "")) / int(found[2] or 1)


class Choice:
    """One letter of several, as `B`, `b`, `(B)`, `B.` or `B)`; nothing beside it."""

    def __call__(self, prompt: Prompt, answer: str) -> float:
        right, given = self.check(prompt), _CHOICE.fullmatch(answer.strip())
        return float(given is not None and given[1].upper() == right)

    def check(self, prompt: Prompt) -> str:
        """The right letter, upper case. Raises ValueError where the right answer is no letter."""
        right = _CHOICE.fullmatch(prompt.answer.strip())
        if right is None:
            raise ValueError(f"the right answer {prompt.answer[:100]!r} is no letter; take reward=exact")
        return right[1].upper()
