r"""Are two mathematical answers equal? By math-verify (Kydlíček, Hugging Face 2025), LaTeX and plain.

math-verify looks for an answer in a text, and takes what it finds. Here the whole answer has to be one expression, or
to hold exactly one `\boxed{...}` beside words: to name several values must not pay. Nor must the question restated:
where the right answer is a number, or numbers in brackets, only numbers, fractions, roots and multiples of pi count,
and elsewhere sums, integrals, factorials and the like only where the right answer has them.

Fractions and roots of numbers count as worked out, and a root may be written as a power: `14/2` and `\sqrt{49}` are 7,
`2^{1/3}` is `\sqrt[3]{2}`. Sums, products and whole powers of numbers do not count: `3+4` and `2^3` are left to do.

Dress does not count (`r1lab.reward.math_dress`, `r1lab.reward.math_notation`), and equality is exact
(`r1lab.reward.math_number`, `r1lab.reward.math_exact`): 0.333333 is not 1/3. What belongs to a value has to agree:

- A percentage is a hundredth: `50%` is 0.5, and 50 is not. `5 million` is 5000000, and 5 is not.
- A unit may be left out, by either answer; two units must be the same (`r1lab.reward.math_unit`).
- A base is part of the notation that a question asks for: `1101_2` equals `01101_{2}` and `1101_{\text{two}}`, and
  neither 1101, `1101_3` nor 13. Base ten may be left out.
- The name in `x = 5` may be left out; two names must be the same.
- The case of a variable counts: x is not X. The case of words does not, and `no solutions` is `no solution`.
- A capital letter from A to E, or a letter up to J in brackets, is a choice: A equals `(a)`, `Option A` and, with one
  value behind it, `A. 12`. The value is compared only where both answers have one.

Parsing and simplifying take what time and memory they like on hostile text, so this belongs into
`r1lab.reward.pool.Pooled`.
"""

import importlib.util
import itertools
import logging
import re
from dataclasses import replace
from functools import lru_cache
from operator import eq
from typing import Any, NamedTuple

from r1lab.packages import absent, needed
from r1lab.reward.math_dress import MAX_LENGTH, expression, unwrapped
from r1lab.reward.math_notation import braced
from r1lab.reward.math_number import exact_number, numeral, too_large, without_decimals
from r1lab.reward.math_unit import Unit, split_unit, units_agree
from r1lab.types import Prompt

_PACKAGE = ("reward=math", "math-verify", "pip install 'r1lab[math]'")
# A price in dollars, and no LaTeX between dollars.
_PRICE = re.compile(r"(-?(?:US)?)\$(?=\s*-?[0-9.])([^$]*)|(-?[0-9][0-9.,]*\s)\$")
_NAME = re.compile(
    r"(?:m\s*)?(\\(?:measured)?angle\s*\{?[A-Z]{1,3}\}?|\\?[A-Za-z]+(?:_\{?[A-Za-z0-9]+\}?)?(?:\([A-Za-z0-9]\))?)"
    r"\s*(?:=(?!=)|\\in(?![A-Za-z]))"
)
_NAME_BEHIND = re.compile(r"([^A-Za-z=]+|.*[0-9}])=\s*(\\?[A-Za-z])")
_INEQUALITY = re.compile(r"[<>]|\\[lg]e(?![A-Za-z])")
_CONJUNCTION = re.compile(r"\s*,?\s*(?:\\text\{\s*(?:and|or)\s*\}|(?<![A-Za-z])(?:and|or)(?![A-Za-z]))\s*")
_PLUS_MINUS = re.compile(r"\\pm\s*([^,+-]+)")
# Numbers side by side are read as a sum, of `8 = 7` the last is taken, and the subscript of a number is left out.
_SEVERAL = re.compile(
    r"(?<!_)[0-9]\s+[0-9]|^[-+0-9.,\s]+=(?![^=]*(?<![A-Za-z\\])[A-Za-z])|(?<![A-Za-z0-9_])[0-9]+\s*\)?\s*_|\band\b"
)
_TEXT = re.compile(r"\\text\{\s*([^{}]*?)\s*\}")
_WORD = re.compile(r"(?:[A-Za-z][A-Za-z'-]{2,}|[Nn][Oo])(?: [A-Za-z'-]+)*")
# Three letters of these are a product.
_VARIABLES = set("abcxyzpqrmnkuvw")
_LETTER = re.compile(
    r"(?P<mark>(?:(?:option|choice) )?\(?) ?(?P<letter>[A-Za-z]) ?(?P<end>\)?[.:)]?)(?:(?<=[.:)]) ?(?P<value>.+))?",
    re.IGNORECASE,
)
# Letters and the names of Greek ones, in a formula and not in words.
_NAMES = re.compile(
    r"\\mathbb\{[^{}]*\}|\\text\{[^{}]*[A-Za-z]{2}[^{}]*\}|(?<![A-Za-z\\])[A-Za-z]{4,}|(\\[A-Za-z]+|[A-Za-z])"
)
_UNUSED = "zyxwvutsrqpnmlkjcba"
_NO_PLURAL = re.compile(r"(no .*[^s])s$")

# A value as it is written when nothing is left to work out.
_N = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_ROOT = (
    rf"(?:\\sqrt\s*(?:\[[0-9]\])?\s*(?:[0-9]|\{{\s*{_N}(?:/{_N})?\s*\}}|\{{\s*\\[dt]?frac\{{{_N}\}}\{{{_N}\}}\s*\}}))"
)
# A root as a power; an exponent of 4/2 is left to work out.
_NON_INTEGER = r"(?:[13579]/2|[124578]/3|[13]/4|[1-4]/5|[15]/6|[0-9]?\.5)"
_ROOT_POWER = rf"(?<![0-9.])[0-9]+\s*\^\s*\{{\s*-?{_NON_INTEGER}\s*\}}"
_IRRATIONAL = rf"(?:{_ROOT}|\\pi|\\sqrt\s*\\pi|{_ROOT_POWER})"
_TIMES = r"\s*(?:\\cdot|\\times|\*)\s*"
_PRODUCT = rf"(?:(?:{_TIMES}|\s*){_IRRATIONAL})*"
_ATOM = rf"(?:{_N}{_PRODUCT}|{_IRRATIONAL}{_PRODUCT}(?:{_TIMES}{_N})?|\\infty|\\mathbb\{{R\}})"
_SIGN = r"\s*[-+]?\s*"
_PARTS = rf"\s*(?:[0-9]|\{{{_SIGN}{_ATOM}\s*\}})\s*(?:[0-9]|\{{{_SIGN}{_ATOM}\s*\}})"
_FRACTIONS = rf"(?:\\frac{_PARTS})"
_VALUE = re.compile(
    rf"{_SIGN}(?:{_ATOM}(?:\s*/{_SIGN}{_ATOM})?|(?:{_N}|{_IRRATIONAL})?(?:{_TIMES}|\s*){_FRACTIONS}|"
    rf"{_FRACTIONS}(?:{_TIMES}|\s*){_IRRATIONAL})\s*"
)
_LONG_WORD = re.compile(
    rf"(?<![A-Za-z\\])(?<!begin\{{)(?<!end\{{)(?![{''.join(_VARIABLES)}]+(?![A-Za-z]))[A-Za-z]{{4,}}"
)
_LIST = re.compile(r"(\(|\[|\\\{)(.*)(\)|\]|\\\})", re.DOTALL)
# Work that is left to do, which a factor of 0 hides, and signs of several values.
_WORK = re.compile(
    r"\\(?:i*int|oint|sum|prod|lim|approx|binom|[dt]binom|det|max|min|gcd|lcm|[bp]?mod|[lr]?floor|[lr]?ceil)(?![A-Za-z])|!|"
    r"(?<![0-9._])0\s*(?:[A-Za-z(]|\\text)"
)
_USUAL = (
    r"\frac{1}{2}",
    "1/2",
    "2\\sqrt{3}",
    "x=-7",
    "(1,2)",
    r"\{1,2\}",
    "x^2+2x+1",
    r"\text{A}",
    "50%",
    "0.5",
    r"\pi",
)


class MathEqual:
    r"""1.0 where the answer equals `prompt.answer` as mathematics (`\frac{1}{2}`, `0.5`, `1/2`), else 0.0.

    Where math-verify cannot read `prompt.answer`, only the same text is right. Raises ImportError where it is not
    installed.
    """

    def __init__(self):
        if importlib.util.find_spec("math_verify") is None:
            raise absent(*_PACKAGE)
        with needed(*_PACKAGE):
            _library()

    def __reduce__(self):
        return _warm, ()

    def __call__(self, prompt: Prompt, answer: str) -> float:
        if answer.strip() == prompt.answer.strip():
            return 1.0
        try:
            return float(_same(_read_right(prompt.answer), _read(answer)))
        except (MemoryError, RecursionError, ImportError):
            raise
        except Exception:
            # Text that math-verify or SymPy fail on, in whichever way, is no right answer.
            return 0.0


class _Answer(NamedTuple):
    """text: of the value, in plain LaTeX. name: what is said to be equal to it. whole: both."""

    text: str
    name: str
    unit: Unit | None
    whole: str


def _read(answer: str) -> _Answer:
    if len(answer) > MAX_LENGTH:
        return _Answer("", "", None, "")
    bare = unwrapped(answer)
    whole = text = expression(_PRICE.sub(r"\1\3\\$\2", bare) if _PRICE.fullmatch(bare) else answer)
    name = ""
    if not _INEQUALITY.search(text) and not _WORD.fullmatch(text):
        text = _CONJUNCTION.sub(", ", text)
        name, text = _one_name(text)
    if not name and text.count("=") <= 1 and not _INEQUALITY.search(text):
        if found := _NAME.match(text):
            name, text = found[1].replace(" ", ""), text[found.end() :].strip()
        elif (found := _NAME_BEHIND.fullmatch(text)) and _written_out(found[1].strip())[0]:
            name, text = found[2], found[1].strip()
    text, unit = split_unit(text)
    if found := _PLUS_MINUS.fullmatch(text):
        text = f"{found[1]},-{found[1]}"
    if text.startswith("{") and braced(text[1:]) == text[1:-1]:
        text = rf"\{{{text[1:-1]}\}}" if "," in text else text[1:-1]
    return _Answer(text.strip(), name, unit, whole)


_read_right = lru_cache(1024)(_read)


def _one_name(text: str) -> tuple[str, str]:
    """`x = 2, x = 3` as a list of values of x; no name where there are others."""
    found = [_NAME.match(part.strip()) for part in text.split(",")]
    names = {part[1] for part in found if part}
    if None in found or len(found) < 2 or len(names) > 1:
        return "", text
    return names.pop(), ", ".join(part.string[part.end() :].strip() for part in found)


def _word(text: str) -> str | None:
    r"""The words that a text is, in small letters; None where it may be a formula."""
    words = " ".join(_TEXT.sub(r" \1 ", text).split())
    words = _NO_PLURAL.sub(r"\1", words.rstrip("!").casefold())
    known = _TEXT.search(text) or not (len(words) <= 3 and set(words) <= _VARIABLES)
    return words if known and _WORD.fullmatch(words) else None


class _Letter(NamedTuple):
    """A variable or a choice. marked: as `(b)`, `b)` or `option b`. value: of the choice, as in `B. 12`."""

    letter: str
    marked: bool
    value: str

    def is_choice(self) -> bool:
        return self.letter.upper() in "ABCDEFGHIJ" if self.marked else self.letter in "ABCDE"


def _letter(text: str) -> _Letter | None:
    found = _LETTER.fullmatch(_TEXT.sub(r"\1", text))
    if not found:
        return None
    value = split_unit(found["value"] or "")[0]
    if value and not _VALUE.fullmatch(value) and exact_number(value) is None:
        return None
    return _Letter(found["letter"], bool(found["mark"] or found["end"]), found["value"] or "")


def _same_letter(right: _Letter, given: _Letter) -> bool:
    """Case and a value behind the letter count in all but choices, of which `B. 12` is B."""
    if not right.is_choice():
        return right.letter == given.letter and not given.value
    if right.letter.casefold() != given.letter.casefold():
        return False
    return not (right.value and given.value) or _same(_read(right.value), _read(given.value))


def _same(right: _Answer, given: _Answer) -> bool:
    if not right.text or not given.text or not units_agree(right.unit, given.unit):
        return False
    if right.name and given.name and right.name != given.name:
        return False
    if right.text == given.text:
        return True
    for kind, same in ((exact_number, eq), (numeral, eq), (_word, eq), (_letter, _same_letter)):
        values = kind(right.text), kind(given.text)
        if None not in values:
            return same(*values)
    if numeral(right.text) or _word(right.text) or _SEVERAL.search(right.text) or _SEVERAL.search(given.text):
        return False
    if too_large(right.whole) or too_large(given.whole) or not _worked_out(right.text, given.text):
        return False
    # An equation beside y = 2x + 1 is no value of y.
    if (right.name and "=" in given.text) or (given.name and "=" in right.text):
        return _equal(right.whole, given.whole)
    return _equal(right.text, given.text)


def _equal(right: str, given: str) -> bool:
    from r1lab.reward.math_exact import equal

    right, given = _with_case(right, given)
    return any(itertools.starmap(equal, itertools.product(_right(right), _parse(given))))


def _with_case(right: str, given: str) -> tuple[str, str]:
    """Both with other letters for the capitals whose small letters occur too: math-verify reads X as x."""
    names = {found[1] for found in _NAMES.finditer(f"{right} {given}") if found[1]}
    capitals = sorted(name for name in names if not name.islower() and name.lower() in names)
    unused = (letter for letter in _UNUSED if not {letter, letter.upper()} & names)
    letters = dict(zip(capitals, unused, strict=False))
    return tuple(_NAMES.sub(lambda found: letters.get(found[1], found[0]), text) for text in (right, given))


def _warm() -> MathEqual:
    """One whose first answers cost no more than later ones: a worker of a pool is to be timed from there on."""
    checker = MathEqual()
    for text in _USUAL:
        _equal(text, text + "+0")
    return checker


def _worked_out(right: str, given: str) -> bool:
    """Whether an expression is as far worked out as the right one, and no other kind of list."""
    value, brackets = _written_out(right)
    if value and re.search(r"[][]|\\infty", right) and _INEQUALITY.search(given):
        return all(_VALUE.fullmatch(x) or re.fullmatch(r"\s*[A-Za-z]\s*", x) for x in _INEQUALITY.split(given))
    if value:
        given_value, given_brackets = _written_out(given)
        return given_value and (not brackets or not given_brackets or brackets == given_brackets)
    # A set is no tuple.
    if "," in right and (r"\{" in right) != (r"\{" in given):
        return False
    if given.count("=") > max(1, right.count("=")) or not _work(given) <= _work(right):
        return False
    if re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", right)):
        return True
    right = right.replace(r"\pm", "+")
    return all(sign in right for sign in "+*^|_" if sign in given)


def _work(text: str) -> set[str]:
    """The signs of work that is left to do, and the words beside a formula."""
    return set(_WORK.findall(text)) | {word.casefold() for word in _LONG_WORD.findall(text)}


def _written_out(text: str) -> tuple[bool, str]:
    """Whether a text is a value, or several, with nothing left to work out; and the brackets around it."""
    brackets = ""
    if found := _LIST.fullmatch(text):
        brackets, text = found[1] + found[3], found[2]
    parts = [text] if _VALUE.fullmatch(text) else text.split(",")
    return all(_VALUE.fullmatch(part) or exact_number(part) is not None for part in parts), brackets


@lru_cache(1)
def _library() -> Any:
    import math_verify

    # It reports each text that it cannot parse.
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    return math_verify


@lru_cache(1)
def _extraction() -> Any:
    usual = _library().LatexExtractionConfig()
    # It would leave out units, and take the t of x+2t for one.
    return replace(usual, normalization_config=replace(usual.normalization_config, units=False))


@lru_cache(1024)
def _right(text: str) -> list:
    return _parse(text)


def _parse(text: str) -> list:
    text = without_decimals(text)
    return _library().parse(f"${text}$", [_extraction()], fallback_mode="no_fallback", parsing_timeout=None)
