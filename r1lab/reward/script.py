"""The words of a text and the script that each is written in, by the Unicode names of its letters."""

import re
import unicodedata
from collections.abc import Collection
from functools import lru_cache

MIXED = "MIXED"
# Scripts written without spaces, where a word cannot be told without a dictionary: there each letter counts as one.
UNSPACED = frozenset({"CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"})
_OF_VARIABLES = frozenset({"LATIN", "GREEK"})
_MATHEMATICAL = frozenset({"MATHEMATICAL", "DOUBLE-STRUCK", "SCRIPT", "BLACK-LETTER"})
# What opens code or mathematics, and the pattern that closes it: `$5 and $3` are two prices.
_SPANS = tuple(
    (opening, re.compile(closing))
    for opening, closing in (
        ("```", "```"),
        ("`", "`"),
        ("$$", r"\$\$"),
        ("\\[", r"\\\]"),
        ("\\(", r"\\\)"),
        ("\\begin{", r"\\end\{"),
        ("$", r"\$(?![0-9])"),
    )
)
_NAME_AT_END = re.compile(r"\\end\{[^{}\n]{0,40}\}")
_COMMAND = re.compile(r"\\[A-Za-z]+")


def scripts_of_words(text: str) -> list[str]:
    """The script of each word, in order: `LATIN`, `CJK` (Han), `CYRILLIC`, ..., or `MIXED` for a word of several.

    A word is a run of letters; in scripts without spaces each letter is one. A Latin or Greek letter alone is taken for
    a variable and left out, as digits, signs and mathematical alphabets are.
    """
    words: list[str] = []
    word: list[str] = []

    def end() -> None:
        if len(word) > 1 or (word and word[0] not in _OF_VARIABLES):
            words.append(word[0] if len(set(word)) == 1 else MIXED)
        word.clear()

    for character in text:
        script = _script(character)
        if script in UNSPACED:
            end()
            words.append(script)
        elif script:
            word.append(script)
        elif script is None:
            end()
    end()
    return words


@lru_cache(2**16)
def _script(character: str) -> str | None:
    """The script of a letter; "" for a mark, which goes with the letter before it; None for anything else."""
    category = unicodedata.category(character)
    if category[0] == "M" or category in ("Lm", "Cf"):
        return ""
    first, *rest = unicodedata.name(character, "UNNAMED").split()
    if category[0] != "L" or first in _MATHEMATICAL:
        return None
    return rest[0] if first in ("FULLWIDTH", "HALFWIDTH") else first


def prose(text: str, own: Collection[str] = ()) -> str:
    """The text without code, in fences or back quotes, and without LaTeX; but words inside that are neither Latin nor
    of one of the scripts `own` stay, since they are neither code nor mathematics. In linear time.
    """
    text = _NAME_AT_END.sub(r"\\end{", text)
    for opening, closing in _SPANS:
        text = _without(text, opening, closing, own)
    return _COMMAND.sub(" ", text)


def _without(text: str, opening: str, closing: re.Pattern, own: Collection[str]) -> str:
    kept, place = [], 0
    while (start := text.find(opening, place)) >= 0:
        end = closing.search(text, start + len(opening))
        if end is None:
            break
        kept += [text[place:start], _foreign(text[start : end.start()], own)]
        place = end.end()
    return " ".join([*kept, text[place:]])


def _foreign(span: str, own: Collection[str]) -> str:
    if span.isascii():
        return ""
    scripts = map(_script, span)
    # A mark goes with its letter, and is nothing between others.
    kept = (c if s and s != "LATIN" and s not in own else " " * (s != "") for c, s in zip(span, scripts, strict=True))
    return "".join(kept)
