r"""Are two mathematical answers equal? By math-verify (Kydlíček, Hugging Face 2025), LaTeX and plain.

math-verify looks for an answer in a text, and takes what it finds. Here the whole answer has to be one expression, or
to hold exactly one `\boxed{...}`: to name several values must not pay. Parsing and simplifying take what time and
memory they like on hostile text, so this belongs into `r1lab.reward.pool.Pooled`.
"""

import importlib.util
import logging
import re
from functools import lru_cache
from typing import Any

from r1lab.types import Prompt

_MAX_LENGTH = 1000
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\[", r"\]"), (r"\(", r"\)"))
_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:,[0-9]{3})*)?(?:\.[0-9]+)?\s*\\?%?", re.ASCII)
_MIXED = re.compile(r"^(-?[0-9]+)\s+([0-9]+)\s*/\s*([0-9]+)$")
# A delimiter that is left stands between several expressions, or in words; numbers side by side are read as a sum, and
# of `8 = 7` the last is taken.
_SEVERAL = re.compile(r"(?<!\\)\$|\\[\[\]()]|[0-9]\s+[0-9]|^[-+0-9.,\s]+=")
_BOX = r"\boxed{"


class MathEqual:
    r"""1.0 where the answer equals `prompt.answer` as mathematics (`\frac{1}{2}`, `0.5`, `1/2`), else 0.0.

    Where math-verify cannot read `prompt.answer`, only the same text is right. Raises ImportError where it is not
    installed.
    """

    def __init__(self):
        if importlib.util.find_spec("math_verify") is None:
            raise ImportError("reward=math needs the package math-verify: pip install 'r1lab[math]'")

    def __call__(self, prompt: Prompt, answer: str) -> float:
        if answer.strip() == prompt.answer.strip():
            return 1.0
        try:
            right, given = _right(prompt.answer), _parse(expression(answer))
            return float(_library().verify(right, given, timeout_seconds=None))
        except (MemoryError, RecursionError):
            raise
        except Exception:
            # Text that math-verify or SymPy fail on, in whichever way, is no right answer.
            return 0.0


def expression(answer: str) -> str:
    r"""The one expression of an answer, without `$`, `\(`, `\[` or `\boxed{` around it; "" where there is not one."""
    text = answer.strip()
    if len(text) > _MAX_LENGTH or text.count(_BOX) > 1:
        return ""
    if _BOX in text:
        text = _braced(text[text.find(_BOX) + len(_BOX) :])
    for opening, closing in _DELIMITERS:
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening + closing):
            text = text[len(opening) : -len(closing)].strip()
            break
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", text.rstrip("."))
    return "" if _SEVERAL.search(text) else text.replace("**", "^")


def _braced(text: str) -> str:
    """What stands before the brace that closes the one before `text`; "" where none does."""
    depth = 1
    for place, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if not depth:
            return text[:place]
    return ""


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
