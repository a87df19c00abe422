r"""The unit of a number: `5 cm`, `5\text{ cm}^2`, `$5`, `90^{\circ}`, `60 miles per hour`.

A unit is a power of each word. Words are known by their usual abbreviations and plurals; any other word stands for
itself, as in `7 apples`. Units are not converted: `100 cm` is not `1 m`. A magnitude is part of the value:
`5 million` is `5000000`.
"""

import re
from typing import NamedTuple

from r1lab.reward.math_number import exact_number

_NAMES = {
    "millimeter": "mm millimetre", "centimeter": "cm centimetre", "meter": "m metre mtr", "kilometer": "km kilometre",
    "inch": "in inches", "foot": "ft feet", "yard": "yd", "mile": "mi", "gram": "g gm gramme", "kilogram": "kg kilo",
    "milligram": "mg", "ton": "t tonne", "pound": "lb £ gbp", "ounce": "oz", "second": "s sec", "minute": "min",
    "hour": "h hr", "day": "d", "week": "wk", "month": "mo", "year": "yr", "liter": "l litre", "milliliter": "ml",
    "gallon": "gal", "degree": r"^{\circ} deg", "radian": "rad", "dollar": r"$ usd us$ buck", "euro": "€ eur",
    "cent": "¢", "yen": "¥ jpy", "rupee": "₹ rs inr", "joule": "j", "newton": "n", "watt": "w", "volt": "v",
    "ampere": "a amp", "kelvin": "k", "pascal": "pa", "hertz": "hz", "person": "people", "man": "men", "woman": "women",
    "child": "children", "celsius": "", "fahrenheit": "", "unit": "", "mole": "mol",
}  # fmt: skip
_KNOWN = {alias: name for name, aliases in _NAMES.items() for alias in (name, *aliases.split())}
_MAGNITUDES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_COMPOUND = {"mph": "mile/hour", "kph": "km/hour", "kmh": "km/hour", "kmph": "km/hour", "mps": "m/s", "cc": "cm^3"}
_POWERS = {"square": 2, "squared": 2, "sq": 2, "cubic": 3, "cubed": 3, "cu": 3}
_NO_UNIT = {"or", "and", "not", "percent", "pi", "sqrt", "is", "if", "base", "to", "e", "i", "x", "y", "z"}
_CURRENCY = r"(?:US)?\\?\$|[€£¥₹¢]"
_CODE = r"(?:USD|EUR|GBP|JPY|INR|Rs\.?)(?=[\s0-9])"
# Of letters alone, without a space or \text, only these are a unit and no product of variables.
_ATTACHED = sorted(
    (alias for alias in (*_KNOWN, *_COMPOUND, *_MAGNITUDES) if alias.isalpha() and len(alias) > 1), key=len
)[::-1]
_POWER = r"(?:\s*\^\s*(?:\{\s*-?[0-9]\s*\}|-?[0-9]))?"
_WORD = rf"[A-Za-z]+\.?{_POWER}"
_TEXT = rf"(?:\\text\{{[A-Za-z\s./^0-9-]+\}}{_POWER})"
_UNIT = re.compile(
    r"(?P<value>.*?[0-9}\])i])(?:"
    rf"\s*(?P<degree>\^\{{\\circ\}})(?P<scale>\s*[CF])?"
    rf"|\s*(?P<sign>{_CURRENCY})"
    rf"|\s*(?P<text>{_TEXT}(?:\s*[/*]?\s*(?:\\cdot)?\s*{_TEXT})*)"
    rf"|\s+(?P<words>{_WORD}(?:(?:\s*/\s*|\s*\\cdot\s*|\s+){_WORD}){{0,3}})"
    rf"|(?P<attached>(?:{'|'.join(_ATTACHED)}){_POWER}(?:\s*/\s*{_WORD})?)"
    rf"|(?P<letter>[A-Za-z])"
    r")"
)
# Other units are the same in small letters, but a megawatt is no milliwatt.
_MEGA = re.compile(r"\bM(?=(?:W|J|N|V|Pa|Hz)\b)")
_TOKEN = re.compile(r"[A-Za-z]+|/|\^\{?\s*(-?[0-9])\s*\}?|[€£¥₹¢$]|\^\{\\circ\}")
# Letters that stand for a unit, and seldom for a variable.
_SYMBOLS = "mgshlLJNWVK"
_PART = rf"(?:\\text\{{[^{{}}]*\}}|[{_SYMBOLS}]|(?:{'|'.join(_ATTACHED)})s?){_POWER}"
_OVER = re.compile(rf"(?<=[0-9}}\s])\\frac\s*\{{\s*({_PART})\s*\}}\s*\{{\s*({_PART})\s*\}}$")
_BRACKETED = re.compile(r"(?<=[0-9}\s])\(\s*(\\text\{[^{}]*\}|[a-z]{3,})\s*\)$")
_VARIABLE = re.compile(r"(?<![A-Za-z\\])[A-Za-z]")
_BEFORE = re.compile(rf"(?P<minus>-?)\s*(?P<sign>{_CURRENCY}|{_CODE})\s*(?P<value>-?(?:[0-9.]|\\frac).*)")


class Unit(NamedTuple):
    """powers: of each word, sorted. letter: one letter, which may be a variable as well."""

    powers: tuple[tuple[str, int], ...]
    letter: bool = False


def split_unit(text: str) -> tuple[str, Unit | None]:
    """The value in an expression, with its magnitude, and its unit if it has one."""
    value, unit = _split(_OVER.sub(r" \1/\2", _BRACKETED.sub(r" \1", text)))
    magnitudes = {word: power for word, power in unit.powers if word in _MAGNITUDES} if unit else {}
    if not magnitudes:
        return value, unit
    number = exact_number(value)
    if number is None or set(magnitudes.values()) != {1}:
        return text, None
    powers = tuple(pair for pair in unit.powers if pair[0] not in magnitudes)
    value = str(number * 10 ** sum(map(_MAGNITUDES.get, magnitudes)))
    return value, unit._replace(powers=powers) if powers else None


def _split(text: str) -> tuple[str, Unit | None]:
    if found := _BEFORE.fullmatch(text):
        value, behind = _split(found["value"])
        currency = _unit(found["sign"].removeprefix("US\\").removeprefix("US$") or "$")
        # `\$5 dollars` names the dollar twice, `\$5 per hour` has it and another.
        powers = dict(currency.powers + (behind.powers if behind else ()))
        return found["minus"] + value, Unit(tuple(sorted(powers.items())), bool(behind and behind.letter))
    found = _UNIT.fullmatch(text)
    if not found or not re.search("[0-9]", found["value"]):
        return text, None
    if found["degree"]:
        scale = {"C": " celsius", "F": " fahrenheit"}.get((found["scale"] or "").strip(), "")
        return found["value"].strip(), _unit(scale or "degree")
    written = found["sign"] or found["text"] or found["words"] or found["attached"] or found["letter"]
    written = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", written.replace(r"\$", "$")).replace(r"\cdot", " ")
    bare = not (found["sign"] or found["text"])
    if _NO_UNIT & set(re.findall("[A-Za-z]+", written.lower())) or (bare and _VARIABLE.search(found["value"])):
        return text, None
    return found["value"].strip(), _unit(written)._replace(letter=bare and len(written) == 1 and _attached(found))


def _attached(found: re.Match) -> bool:
    """Whether a letter may be a variable: it stands at the number, or is the symbol of no usual unit."""
    return bool(found["letter"]) or found["words"] not in set(_SYMBOLS)


def _unit(written: str) -> Unit:
    powers: dict[str, int] = {}
    sign, ahead, last = 1, 1, ""
    written = _MEGA.sub("mega", written)
    for token in _TOKEN.finditer(written.lower()):
        word = token[0]
        if token[1] and last:
            powers[last] *= int(token[1])
        elif word in ("per", "/"):
            sign = -1
        elif word in ("squared", "cubed") and last:
            powers[last] *= _POWERS[word]
        elif word in _POWERS:
            ahead = _POWERS[word]
        elif word in _COMPOUND:
            for name, power in _unit(_COMPOUND[word]).powers:
                powers[name] = powers.get(name, 0) + sign * power
            last = ""
        elif word != "of":
            last = _name(word)
            powers[last] = powers.get(last, 0) + sign * ahead
            sign, ahead = 1, 1
    return Unit(tuple(sorted(powers.items())))


def _name(word: str) -> str:
    for alias in (word, word.removesuffix("s"), word.removesuffix("es")):
        if alias in _KNOWN:
            return _KNOWN[alias]
    return word.removesuffix("s") if len(word) > 3 else word


def is_known(unit: Unit) -> bool:
    """Whether each word of a unit is a usual one, and none may be a variable."""
    return not unit.letter and all(word in _NAMES for word, _ in unit.powers)


def units_agree(right: Unit | None, given: Unit | None) -> bool:
    """Whether two units are the same, or one is left out. A letter that may be a variable must not be left out."""
    if right is None or given is None:
        return not (right or given or Unit(())).letter
    return right.powers == given.powers
