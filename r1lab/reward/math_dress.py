r"""The dress around an answer: boxes, delimiters, Markdown, HTML, environments and a lead-in such as `Answer:`.

`**Answer:** $7$`, `\boxed{7}`, `The answer is 7`, `### 7` and `\begin{equation} 7 \end{equation}` all hold 7. A lead-in
is one of a few fixed phrases, so `The answer is not 7` keeps its `not 7`. Around a box, any words may stand that do not
hedge, negate or name another value; a unit behind a box belongs to the value. `> 7` is an inequality and `- 7` a
negative number, so neither is dress.
"""

import re

from r1lab.reward.math_notation import braced, plain
from r1lab.reward.math_unit import is_known, split_unit

MAX_LENGTH = 1000
_BOX = r"\boxed{"

_WRAPPERS = (("$$", "$$"), ("$", "$"), (r"\[", r"\]"), (r"\(", r"\)"), ("```latex", "```"), ("```math", "```"),
             ("```", "```"), ("`", "`"), ("***", "***"), ("**", "**"), ("__", "__"), ("*", "*"), ("_", "_"),
             ('"', '"'))  # fmt: skip
_STOP = re.compile(r"(?<=[*$`_])\s*\.$")
_EMPHASIS = "b|strong|i|em|u|mark|code"
_TAG = re.compile(rf"<({_EMPHASIS})>((?:[^<]|<(?!/?(?:{_EMPHASIS})>))*)</\1>")
_ENVIRONMENT = re.compile(
    r"\\begin\{((?:equation|align|aligned|flalign|gather|gathered|split|multline|displaymath|math|center)\*?)\}"
    r"(.*)\\end\{\1\}",
    re.DOTALL,
)
_SUBJECT = (
    r"(?:(?:the|my|our) )?(?:(?:final|correct|right|exact) )?"
    r"(?:answer|ans\.?|solution|result|value|total|option|choice)s?"
    r"(?: (?:to|of|for) (?:(?:the|this) )?(?:problem|question|equation|expression|\$?[a-z]\$?))?"
)
_LINK = r"(?: ?:| (?:is|are|equals)\b:?| ?=|(?=\n))"
# Emphasis ends before the link or behind it.
_LEAD = re.compile(
    rf"(?:#{{1,6}} |(?:so|thus|hence|therefore)\b,? |there (?:is|are) |\\text[a-z]*\{{ ?{_SUBJECT}{_LINK} ?\}}|"
    rf"(?P<mark>\*\*?|__?){_SUBJECT}(?:(?P=mark){_LINK}|{_LINK}(?P=mark))(?![A-Za-z])|{_SUBJECT}{_LINK}(?![A-Za-z]))",
    re.IGNORECASE,
)

# The one formula of an answer in dollars, with the letter of a choice before it or a unit behind it.
_INLINE = re.compile(r"((?:\(?[A-J]\)|[A-J][.:])\s*)?\$([^$]+)(?<!\\)\$((?:\s*[A-Za-z\s./]+(?:\^?[23])?)?)")
_DELIMITER = re.compile(r"(?<!\\)\$|\\[\[\]()]")

_AROUND = re.compile(
    r"(?:[A-Za-z\s.,:;'=]|\\(?:therefore|implies|q?quad)(?![A-Za-z])|\\text[a-z]*\{[A-Za-z\s.,:;']*\})*"
)
_MARKUP = re.compile(r"\\[()\[\],; ]|[$*#]|</?[a-z]{1,6}>")
# Words that hedge, negate or change the value in a box.
_HEDGE = re.compile(
    r"n't|cannot|\b(?:or|nor|not|no|never|n?either|maybe|perhaps|possibly|probably|might|may|could|unless|except|"
    r"wrong|incorrect|false|guess|alternatively|otherwise|instead|about|around|roughly|approximately|nearly|almost|"
    r"at (?:least|most)|(?:less|more|fewer|greater) than|minus|plus|negative|twice)\b",
    re.IGNORECASE,
)
_NAMED = re.compile(r"(?<![A-Za-z])([A-Za-z])\s?=\s*$")
# A letter that multiplies the box or is an answer of its own, before it and behind it.
_LETTER_BEFORE = re.compile(r"^\W*[A-Za-z][\s,.;:]*$|(?<![A-Za-z'])[A-Zb-z]\s*$")
_MORE_BEHIND = re.compile(r"(?<![A-Za-z'\\])(?:and|[A-HJ-Zb-z])(?![A-Za-z])")


def expression(answer: str) -> str:
    """The one expression of an answer in plain LaTeX; "" where there is not one, or it is too long or too deep."""
    text = answer.strip()
    if len(text) > MAX_LENGTH or text.count(_BOX) > 1:
        return ""
    text = unwrapped(_unboxed(text) if _BOX in text else text)
    if found := _INLINE.fullmatch(text):
        text = f"{found[1] or ''}{found[2]} {found[3]}"
    text = plain(text)
    return "" if _DELIMITER.search(text) else text


def unwrapped(text: str) -> str:
    """Without the delimiters, Markdown and lead-in around all of it; each may stand inside another."""
    text = re.sub(r"\s+", lambda found: "\n" if "\n" in found[0] else " ", text)
    while True:
        bare = _TAG.sub(r"**\2**", _STOP.sub("", text.strip()))
        for opening, closing in _WRAPPERS:
            inner = bare[len(opening) : -len(closing)]
            whole = bare.startswith(opening) and bare.endswith(closing) and len(bare) > len(opening + closing)
            once = opening != closing or closing not in inner.replace(r"\$", "")
            if whole and once and not bare.endswith(r"\$"):
                bare = inner
                break
        else:
            if found := _LEAD.match(bare):
                bare = bare[found.end() :]
            elif found := _ENVIRONMENT.fullmatch(bare):
                bare = found[2] if r"\begin" in found[2] else _rows(found[2])
        if bare == text:
            return text
        text = bare


def _rows(text: str) -> str:
    """The rows of an environment that aligns formulas, as a list of formulas."""
    rows = (re.sub(r"(?<!\\)&", "", row).strip() for row in text.split(r"\\"))
    return ", ".join(row for row in rows if row)


def _unboxed(text: str) -> str:
    """The content of the box, with a name before it and a unit behind it; "" where the words around it hedge."""
    before, _, behind = text.partition(_BOX)
    content = braced(behind)
    before, behind = (_MARKUP.sub(" ", part) for part in (before, behind[len(content) + 1 :]))
    content, suffix = unwrapped(content), plain(behind)
    if _is_suffix(suffix):
        content, behind = f"{content} {suffix}", ""
    around = f"{before} {behind}"
    if not _AROUND.fullmatch(around) or _HEDGE.search(around):
        return ""
    if _LETTER_BEFORE.search(before) or _MORE_BEHIND.search(behind):
        return ""
    named = _NAMED.search(before)
    return f"{named[1]} = {content}" if named and "=" not in content else content


def _is_suffix(text: str) -> bool:
    value, unit = split_unit(f"1 {text}")
    return text == r"\%" or (value != f"1 {text}" and (unit is None or is_known(unit)))
