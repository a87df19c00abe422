"""Which formulas may be given to a scorer that evaluates them as Python.

`sympy.parse_expr` runs what it is given: a policy's answer could call any built-in function, or ask for a number of a
billion digits. Numbers, the four operations, brackets and small powers can do neither.
"""

import re

FUNCTIONS = frozenset("sin cos tan sec csc cot asin acos atan sinh cosh tanh exp log ln sqrt Abs pi".split())

_CHARACTERS = re.compile(r"[0-9A-Za-z+\-*/^(). ]*")
_LONG_NUMBER = re.compile(r"[0-9.]{21}")
_NUMBER_WITH_EXPONENT = re.compile(r"[0-9.][eE]")
_ATTRIBUTE = re.compile(r"[A-Za-z)] *\.")
_POWER = re.compile(r"\*\*|\^")
# An exponent is a number below 100, bare or alone in brackets, and is not raised again.
_SMALL_POWER = re.compile(
    r"(?:\*\*|\^) *(?:-? *[0-9]{1,2}|\( *-? *[0-9]{1,2} *(?:/ *[0-9]{1,2} *)?\))(?![0-9.]| *(?:\*\*|\^))"
)
_POWER_OF_BRACKETS = re.compile(r"\) *(?:\*\*|\^)")
_MAX_LENGTH = 500


def is_plain_formula(text: str, functions: frozenset[str] = frozenset()) -> bool:
    """Whether `text` is made of numbers, one-letter variables, `+ - * / ( )`, small powers, and `functions` alone."""
    return (
        len(text) <= _MAX_LENGTH
        and _CHARACTERS.fullmatch(text) is not None
        and all(len(name) == 1 or name in functions for name in re.findall(r"[A-Za-z]+", text))
        and not _LONG_NUMBER.search(text)
        and not _NUMBER_WITH_EXPONENT.search(text)
        and not _ATTRIBUTE.search(text)
        and len(_POWER.findall(text)) == len(_SMALL_POWER.findall(text))
        # Powers of powers multiply their exponents.
        and len(_POWER_OF_BRACKETS.findall(text)) <= 1
    )
