r"""One notation for mathematical answers: the LaTeX left when fonts, sizes, spacing and Unicode are gone.

`\text{13}`, `\large 13`, `13.` and `1\!3` are all `13`; `½` is `\frac{1}{2}`, `x²` is `x^{2}`, `28 percent` is `28\%`,
`1\,000` is `1000`, `3 to 2` is `3:2`. A digit of another script stays what it is, and is no number.
"""

import itertools
import re

_MAX_DEPTH = 30  # of brackets, whose reading takes time that grows faster than they do

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉ₙ", "0123456789n", strict=True))
_FRACTIONS = {"½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5), "⅗": (3, 5),
              "⅘": (4, 5), "⅙": (1, 6), "⅚": (5, 6), "⅛": (1, 8), "⅜": (3, 8), "⅝": (5, 8), "⅞": (7, 8)}  # fmt: skip
_GREEK = dict(zip("αβγδθλμσφω", "alpha beta gamma delta theta lambda mu sigma phi omega".split(), strict=True))
_CHARACTERS = str.maketrans({
    **{space: " " for space in "\u00a0\u2009\u202f\u2002\u2003"},
    **{minus: "-" for minus in "−–—‐‑"},
    **{letter: rf"\{name} " for letter, name in _GREEK.items()},
    **{sign: rf"\frac{{{a}}}{{{b}}}" for sign, (a, b) in _FRACTIONS.items()},
    "×": r"\times ",
    "·": r"\cdot ", "⋅": r"\cdot ", "∗": "*", "÷": "/", "⁄": "/", "∕": "/", "±": r"\pm ",
    "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∅": r"\emptyset ",
    "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}",
    "ℚ": r"\mathbb{Q}", "’": "'", "∶": ":", "∠": r"\angle ", "′": "'", "“": '"', "”": '"',
    **{sign: r"^{\circ}" for sign in "°º˚"},
})  # fmt: skip
_RAISED = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_LOWERED = re.compile(f"[{''.join(_SUBSCRIPTS)}]+")
_ROOT = re.compile(r"([√∛])\s*(?:\(([^()]*)\)|([0-9.]+|[A-Za-z]))")

_SIZES = "tiny|scriptsize|footnotesize|small|normalsize|large|Large|LARGE|huge|Huge"
# Without an argument, sec is a second.
_FUNCTIONS = (
    r"alpha|beta|gamma|theta|lambda|pi|sin|cos|tan|cot|sec(?!\s*(?:\^\s*\{?-?[0-9]\}?\s*)?(?:[.,/)}]|$))|csc|ln|log"
)
_NAMES = (
    (r"\*\*", "^"),
    (r"\^\s*\(([^()]*)\)", r"^{\1}"),
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    (r"\\(?:varnothing|empty)(?![A-Za-z])", r"\\emptyset"),
    (r"\\leq(?:slant)?(?![A-Za-z])|<=", r"\\le "),
    (r"\\geq(?:slant)?(?![A-Za-z])|>=", r"\\ge "),
    (r"\\neq(?![A-Za-z])|!=", r"\\ne "),
    (r"\\lt(?![A-Za-z])", "<"),
    (r"\\gt(?![A-Za-z])", ">"),
    (r"\\(?:degree|deg)(?![A-Za-z])", r"^{\\circ}"),
    (r"\^\s*\\circ(?![A-Za-z])|\^\s*\{\s*\\circ\s*\}", r"^{\\circ}"),
    (r"(\^\s*\{\s*-?)\\frac\s*\{?([0-9])\}?\s*\{?([0-9])\}?\s*\}", r"\1\2/\3}"),
    (r"(?<=[0-9}])\s*\^\s*(?:o(?![A-Za-z])|\{\s*o\s*\})", r"^{\\circ}"),
    (r"(?<=[0-9])\s*(?:\\text\{\s*to\s*\}|to(?![A-Za-z]))\s*(?=[0-9])", ":"),
    (rf"\\(?:{_SIZES})(?![A-Za-z])", ""),
    (r"\\(?:bigl?|bigr|Bigl?|Bigr|biggl?|biggr|left|right|displaystyle|textstyle|limits|rm|bf|it|bm)(?![A-Za-z])", ""),
    (r"\\lbrace(?![A-Za-z])", r"\\{"),
    (r"\\rbrace(?![A-Za-z])", r"\\}"),
    (r"\\dots|\\ldots|…", "..."),
    (r"\\(?:par|noindent|newline)(?![A-Za-z])", " "),
    (r"^(?:\{\s*\}|(?:the )?empty set)$", r"\\emptyset"),
    (
        r"\\!|\{\}|\\(?:text)?color(?:box)?\{[^{}]*\}|\\(?:therefore|nonumber|notag|qed|blacksquare)(?![A-Za-z])|\\\\$|^=",
        "",
    ),
    (r"\\math(?:bf|rm|it)\s+(?=[^\s{])", ""),
    (r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}", r"\\frac{\1}{\2}"),
    (r"\\[dt]binom(?![A-Za-z])", r"\\binom"),
    (r"(?<![A-Za-z])([ap])\.\s?m\.?(?![A-Za-z])", r"\1m"),
    (r"(?<![A-Za-z\\])sqrt\s*(?:\(([^()]*)\)|([0-9]+))", r"\\sqrt{\1\2}"),
    (rf"(?<![A-Za-z\\])({_FUNCTIONS})(?![A-Za-z])", r"\\\1 "),
    (r"(?<![A-Za-z\\])(?:infinity|infty)(?![A-Za-z])", r"\\infty "),
    (r"\{\s*,\s*\}", ","),
)
_DRESS = tuple((re.compile(pattern), replacement) for pattern, replacement in _NAMES)
# Spaces of LaTeX between groups of three digits: a separator of thousands.
_THIN = r"(?:(?<!\\)\\[,;: ]|\{\\,\}|~|\s)"
_THOUSANDS = re.compile(rf"(?<![0-9.])[0-9]{{1,3}}(?:{_THIN}[0-9]{{3}})+(?![0-9])")
_SPACE = re.compile(r"(?<!\\)\\[,;: ]|~|\\q?quad(?![A-Za-z])|\\hspace\{[^{}]*\}|\\thinspace(?![A-Za-z])")
_FONT = re.compile(
    r"\\(?:text(?:bf|it|rm|tt|sf|normal|up)?|math(?:rm|bf|it|sf|tt|normal)|mbox|fbox|hbox|framebox|operatorname|boldsymbol|"
    r"underline|emph|ensuremath)\*?\s*\{"
)
_PERCENT = re.compile(r"\s*(?:\\?%|(?<![A-Za-z])(?:percent|per\s+cent|pct)\b\.?)", re.IGNORECASE)
_WORDS = re.compile(r"\s*[A-Za-z][A-Za-z\s.,'/-]*(?:\^?-?[0-9]+\s*)?")
_DOUBLE = re.compile(r"\{\{([^{}]*)\}\}")


def plain(text: str) -> str:
    """A text in plain LaTeX; "" where brackets nest too deep or are not closed."""
    text = _without_characters(text)
    for pattern, replacement in _DRESS:
        text = pattern.sub(replacement, text)
    text = _THOUSANDS.sub(lambda found: re.sub(_THIN, "", found[0]), text)
    text = _without_fonts(_SPACE.sub(" ", text))
    text = _PERCENT.sub(r"\\%", text)
    text = re.sub(r"\s+", " ", text).strip().rstrip(".,;: ")
    return "" if _depth(text) > _MAX_DEPTH else text


def _depth(text: str) -> int:
    steps = ({"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(character, 0) for character in text)
    return max(itertools.accumulate(steps), default=0)


def _without_characters(text: str) -> str:
    text = _RAISED.sub(lambda found: "^{" + "".join(_SUPERSCRIPTS[x] for x in found[0]) + "}", text)
    text = _LOWERED.sub(lambda found: "_{" + "".join(_SUBSCRIPTS[x] for x in found[0]) + "}", text)
    text = _ROOT.sub(lambda found: rf"\sqrt{'[3]' * (found[1] == '∛')}{{{found[2] or found[3]}}}", text)
    return text.translate(_CHARACTERS)


def _without_fonts(text: str) -> str:
    r"""Words stay in `\text{...}`: what is one word is no product of variables."""
    done = ""
    while found := _FONT.search(text):
        inner = braced(text[found.end() :])
        if not text.startswith("}", found.end() + len(inner)):
            return ""
        done, text = done + text[: found.start()], text[found.end() + len(inner) + 1 :]
        if _WORDS.fullmatch(inner) and not _PERCENT.fullmatch(inner):
            done += rf"\text{{{inner}}}"
        else:
            text = inner + text
    return _DOUBLE.sub(r"{\1}", done + text)


def braced(text: str) -> str:
    """What stands before the brace that closes the one before `text`; "" where none does."""
    depth = 1
    for place, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if not depth:
            return text[:place]
    return ""
