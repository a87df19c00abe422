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

    Numbers are `-7`, `1,234.5`, `2.5e-3` and `3/4`, up to 100 characters.
    """

    def __init__(self, relative: float = 0.0, absolute: float = 0.0):
        if relative < 0 or absolute < 0:
            raise ValueError(f"tolerances must be at least 0, got relative={relative} and absolute={absolute}")
        self.relative, self.absolute = Fraction(relative), Fraction(absolute)

    def __call__(self, prompt: Prompt, answer: str) -> float:
        right, given = number(prompt.answer), number(answer)
        if right is None:
            raise ValueError(f"the right answer {prompt.answer[:100]!r} is no number; take reward=exact")
        return float(given is not None and abs(given - right) <= max(self.absolute, self.relative * abs(right)))


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
        right, given = _CHOICE.fullmatch(prompt.answer.strip()), _CHOICE.fullmatch(answer.strip())
        if right is None:
            raise ValueError(f"the right answer {prompt.answer[:100]!r} is no letter; take reward=exact")
        return float(given is not None and given[1].upper() == right[1].upper())
