r"""Numbers as answers write them, read exactly, and numerals of another base.

`1,234.5`, `-\frac{3}{4}`, `2 1/2`, `3.2 \times 10^{5}`, `0.1\overline{6}`, `28\%` are numbers.
"""

import re
from fractions import Fraction
from math import factorial

from r1lab.reward.checker import number

_SCIENTIFIC = re.compile(
    r"([-+]?)(?:([0-9.]+)\s*(?:\\times|\\cdot|\*|x)\s*)?10\s*\^\s*(?:\{\s*([-+]?[0-9]{1,3})\s*\}|([-+]?[0-9]{1,3}))"
)
_REPEATING = re.compile(r"([-+]?)([0-9]*)\.([0-9]*)\\(?:overline|bar)\s*\{?([0-9]+)\}?")
_MIXED = re.compile(
    r"(-?)([0-9]+)\s*"
    r"(?:\s([0-9]+)\s*/\s*([0-9]+)|\\frac\s*(?:\{([0-9]+)\}|([0-9]))\s*(?:\{([0-9]+)\}|([0-9])))"
)
_FRACTION = re.compile(r"([-+]?)\\frac\s*(?:\{([^{}]*)\}|([0-9]))\s*(?:\{([^{}]*)\}|([0-9]))")
_BRACKETED = re.compile(r"()\(\s*([^(),]+)\)|(-)\(\s*([^(),+-]+)\)")
_DECIMAL = re.compile(r"(?<![0-9A-Za-z_.])([0-9]*)\.([0-9]+)(?![0-9.])")
_DIGITS = r"\(?\s*(?:\\text\{)?([0-9A-Z]+(?:\.[0-9A-Z]+)?)\}?\s*\)?\s*"
_SUBSCRIPT = r"_\s*\{?\s*\(?(?:\\text\{)?([0-9]{1,2}|[a-z]+)\}?\)?\s*\}?"
_IN_WORDS = r"\(?(?:\\text\{)?\s*base[ -]\}?\s*([0-9]{1,2}|[a-z]+)\}?\)?"
_NUMERAL = re.compile(rf"{_DIGITS}(?:{_SUBSCRIPT}|{_IN_WORDS})")
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
          "eleven": 11, "twelve": 12, "sixteen": 16}  # fmt: skip
_MAX_LENGTH = 200


def exact_number(text: str) -> Fraction | None:
    """The rational number that a text is, None where it is none or has something left to work out."""
    text = re.sub(r"^([-+])\s+", r"\1", text.strip())
    if len(text) > _MAX_LENGTH:
        return None
    if text.endswith("%"):
        value = exact_number(text[:-1].rstrip("\\ "))
        return None if value is None else value / 100
    if found := _BRACKETED.fullmatch(text):
        value = exact_number(found[2] or found[4])
        return None if value is None else _signed(found[3], value)
    value = number(text)
    if value is not None:
        return value
    if found := _SCIENTIFIC.fullmatch(text):
        digits = number(found[2] or "1")
        return None if digits is None else _signed(found[1], digits * Fraction(10) ** int(found[3] or found[4]))
    if found := _REPEATING.fullmatch(text):
        whole, start, cycle = int(found[2] or 0), found[3], found[4]
        part = Fraction(int(start + cycle) - int(start or 0), 10 ** len(start) * (10 ** len(cycle) - 1))
        return _signed(found[1], whole + part)
    if found := _MIXED.fullmatch(text):
        sign, whole, *parts = found.groups()
        above, below = (part for part in parts if part is not None)
        return _signed(sign, int(whole) + Fraction(int(above), int(below))) if int(below) else None
    if found := _FRACTION.fullmatch(text):
        return _ratio(found[1], found[2] or found[3] or "", found[4] or found[5] or "")
    if text.count("/") == 1:
        return _ratio("", *text.split("/"))
    found = numeral(text)
    return number(found[0]) if found and found[1] == 10 else None


def _ratio(sign: str, above: str, below: str) -> Fraction | None:
    parts = [exact_number(above), exact_number(below)]
    return None if None in parts or not parts[1] else _signed(sign, parts[0] / parts[1])


def _signed(sign: str | None, value: Fraction) -> Fraction:
    return -value if sign == "-" else value


def numeral(text: str) -> tuple[str, int] | None:
    """The digits and the base of `1101_2`, `(2A)_{16}` or `17 base 8`; None for anything else."""
    found = _NUMERAL.fullmatch(text)
    base = (found[2] or found[3]) if found else ""
    base = int(base) if base.isdigit() else _BASES.get(base, 0)
    if not 2 <= base <= 36 or any(int(digit, 36) >= base for digit in found[1].replace(".", "")):
        return None
    return found[1].lstrip("0") or "0", base


def without_decimals(text: str) -> str:
    r"""With `1.5` as `\frac{15}{10}`, which SymPy keeps exact."""
    return _DECIMAL.sub(lambda found: rf"\frac{{{int(found[1] + found[2])}}}{{1{'0' * len(found[2])}}}", text)


_POWER = re.compile(r"([0-9]+)\s*\^\s*(?:\{\s*(-?[0-9]+)\s*\}|([0-9]))")
_FACTORIAL = re.compile(r"([0-9]+)\s*!")
_GROUPED = re.compile(r"\(\s*([0-9]+)\s*\)|(?<![\^}A-Za-z])\{\s*([0-9]+)\s*\}(?!\{)")
_HUGE = re.compile(r"\^\s*\{?\s*-?[0-9]{6,}")
_MAX_BITS = 20_000
_MAX_FACTORIAL = 1000
_LARGE = 10**10  # stands for all that is larger


def too_large(text: str) -> bool:
    """Whether a power or factorial in a text has so many digits that working it out would take very long."""
    try:
        while True:
            simpler = _GROUPED.sub(lambda found: found[1] or found[2], text)
            simpler = _FACTORIAL.sub(_factorial, _POWER.sub(_power, simpler))
            if simpler == text:
                return bool(_HUGE.search(text))
            text = simpler
    except OverflowError:
        return True


def _power(found: re.Match) -> str:
    base, exponent = int(found[1]), int(found[2] or found[3])
    if base.bit_length() * abs(exponent) > _MAX_BITS:
        raise OverflowError
    return str(min(base**exponent, _LARGE) if exponent >= 0 else 1)


def _factorial(found: re.Match) -> str:
    if int(found[1]) > _MAX_FACTORIAL:
        raise OverflowError
    return str(min(factorial(int(found[1])), _LARGE))
