r"""Are two mathematical answers equal? By math-verify (Kydlíček, Hugging Face 2025), LaTeX and plain.

math-verify looks for an answer in a text, and takes what it finds. Here the whole answer has to be one expression, or
to hold exactly one `\boxed{...}` beside words: to name several values must not pay. Nor must the question restated:
where the right answer is a number, or numbers in brackets, only numbers, fractions, roots and multiples of pi count,
and elsewhere sums, integrals, factorials and the like only where the right answer has them. A percentage is a
hundredth, `50%` is 0.5; a unit behind a number is left out where math-verify knows it.

Parsing and simplifying take what time and memory they like on hostile text, so this belongs into
`r1lab.reward.pool.Pooled`.
"""

import importlib.util
import logging
import re
from functools import lru_cache
from typing import Any

from r1lab.packages import absent, needed
from r1lab.reward.checker import number
from r1lab.types import Prompt

_PACKAGE = ("reward=math", "math-verify", "pip install 'r1lab[math]'")
_MAX_LENGTH = 1000
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\[", r"\]"), (r"\(", r"\)"))
_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:,[0-9]{3})*)?(?:\.[0-9]+)?", re.ASCII)
_PERCENT = re.compile(r"^([-+]?[0-9.,]+)\s*\\?%$")
_SCIENTIFIC = re.compile(r"^([-+]?[0-9.]+)\s*\\(?:times|cdot)\s*10\^(?:\{([-+]?[0-9]{1,3})\}|([0-9]))$")
_SPACE = re.compile(r"\\[,;: ]|~|\\q?quad(?![A-Za-z])")
# What may stand around a box: words, but no number and no sign.
_AROUND = re.compile(r"(?:[A-Za-z\s.,:;'$=]|\\[()\[\]])*")
_MIXED = re.compile(r"^(-?[0-9]+)\s+([0-9]+)\s*/\s*([0-9]+)$")
# A delimiter that is left stands between several expressions, or in words; numbers side by side are read as a sum, and
# of `8 = 7` the last is taken.
_SEVERAL = re.compile(r"(?<!\\)\$|\\[\[\]()]|[0-9]\s+[0-9]|^[-+0-9.,\s]+=")
_BOX = r"\boxed{"

# A value as it is written when nothing is left to work out.
_N = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_ROOT = (
    rf"(?:\\sqrt\s*(?:\[[0-9]\])?\s*(?:[0-9]|\{{\s*{_N}(?:/{_N})?\s*\}}|\{{\s*\\[dt]?frac\{{{_N}\}}\{{{_N}\}}\s*\}}))"
)
_ATOM = rf"(?:{_N}?\s*{_ROOT}|{_N}?\s*\\pi|{_N}?\s*{_ROOT}\s*\\pi|{_N}|\\infty)"
_FRACTION = rf"(?:\\[dt]?frac\s*(?:[0-9]|\{{\s*[-+]?\s*{_ATOM}\s*\}})\s*(?:[0-9]|\{{\s*{_ATOM}\s*\}}))"
_UNIT = r"(?:\s*\^\s*(?:\\circ|\{\s*\\circ\s*\})|(?:\s+[A-Za-z]+){1,3}|\s*\\(?:text|mathrm|mbox)\{[A-Za-z\s]+\})?"
_VALUE = re.compile(
    rf"\s*(?:\\?\$)?[-+]?\s*(?:{_ATOM}(?:\s*/\s*{_ATOM})?|{_N}?\s*{_FRACTION}|{_FRACTION}\s*(?:{_ROOT}|\\pi)){_UNIT}\s*"
)
_NO_UNIT = re.compile(r"\b(?:or|and|not|percent)\b")
_ASSIGNED = re.compile(r"^\\?[A-Za-z]+(?:\([a-z]\))?\s*=(?!=)")
_LIST = re.compile(r"(\(|\[|\\\{)(.*)(\)|\]|\\\})", re.DOTALL)
# Work that is left to do, and signs of several values.
_WORK = re.compile(
    r"\\(?:i*int|oint|sum|prod|lim|approx|binom|[dt]binom|det|max|min|gcd|lcm|[bp]?mod|[lr]?floor|[lr]?ceil)(?![A-Za-z])|!"
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
        numbers = [number(expression(text)) for text in (answer, prompt.answer)]
        if None not in numbers:
            if numbers[0] == numbers[1]:
                return 1.0
            if all(x.denominator == 1 for x in numbers):
                return 0.0
        if not _worked_out(expression(prompt.answer), expression(answer)):
            return 0.0
        try:
            right, given = _right(prompt.answer), _parse(expression(answer))
            return float(_library().verify(right, given, timeout_seconds=None))
        except (MemoryError, RecursionError, ImportError):
            raise
        except Exception:
            # Text that math-verify or SymPy fail on, in whichever way, is no right answer.
            return 0.0


def _warm() -> MathEqual:
    """One whose first answers cost no more than later ones: a worker of a pool is to be timed from there on."""
    checker = MathEqual()
    for text in _USUAL:
        _library().verify(_parse(text), _parse(text + "+0"), timeout_seconds=None)
    return checker


def expression(answer: str) -> str:
    r"""The one expression of an answer, without `$`, `\(`, `\[` or `\boxed{` around it; "" where there is not one."""
    text = answer.strip()
    if len(text) > _MAX_LENGTH or text.count(_BOX) > 1:
        return ""
    if _BOX in text:
        before, _, behind = text.partition(_BOX)
        text = _braced(behind)
        if not _AROUND.fullmatch(before + behind[len(text) + 1 :]):
            return ""
    for opening, closing in _DELIMITERS:
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening + closing):
            text = text[len(opening) : -len(closing)].strip()
            break
    text = _SPACE.sub(" ", text.replace(r"\!", "").replace("{,}", ",")).rstrip(".")
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", text)
    text = _SCIENTIFIC.sub(r"\1e\2\3", _PERCENT.sub(r"\1/100", text))
    return "" if _SEVERAL.search(text) else text.replace("**", "^")


def _braced(text: str) -> str:
    """What stands before the brace that closes the one before `text`; "" where none does."""
    depth = 1
    for place, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if not depth:
            return text[:place]
    return ""


def _worked_out(right: str, given: str) -> bool:
    """Whether an expression is as far worked out as the right one, and no other kind of list."""
    value, brackets = _written_out(right)
    if value:
        given_value, given_brackets = _written_out(given)
        return given_value and (not brackets or not given_brackets or brackets == given_brackets)
    # A set is no tuple.
    if "," in right and (r"\{" in right) != (r"\{" in given):
        return False
    if given.count("=") > max(1, right.count("=")) or not set(_WORK.findall(given)) <= set(_WORK.findall(right)):
        return False
    if re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", right)):
        return True
    return all(sign in right for sign in "+*^|_" if sign in given)


def _written_out(text: str) -> tuple[bool, str]:
    """Whether a text is a value, or several, with nothing left to work out; and the brackets around it."""
    text = _ASSIGNED.sub("", text).strip().replace(r"\left", "").replace(r"\right", "")
    brackets = ""
    if found := _LIST.fullmatch(text):
        brackets, text = found[1] + found[3], found[2]
    parts = [text] if _VALUE.fullmatch(text) else text.split(",")
    return all(_VALUE.fullmatch(part) and not _NO_UNIT.search(part) for part in parts), brackets


@lru_cache(1)
def _library() -> Any:
    import math_verify

    # It reports each text that it cannot parse.
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    return math_verify


@lru_cache(1024)
def _right(answer: str) -> list:
    return _parse(expression(answer))


def _parse(text: str) -> list:
    if not text:
        return []
    library = _library()
    plain = _NUMBER.fullmatch(text) is not None
    extraction = library.ExprExtractionConfig() if plain else library.LatexExtractionConfig()
    text = text.replace("\\%", "%") if plain else f"${text}$"
    return library.parse(text, [extraction], fallback_mode="no_fallback", parsing_timeout=None)
