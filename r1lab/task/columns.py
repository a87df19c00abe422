"""Values of a user's data set: which are text, which are whole numbers, and how the rest becomes plain data.

Plain data is None, bool, int, float, str and bytes, in lists and dicts: what a checkpoint holds and loads safely.
"""

import datetime
import math
import numbers
from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np

_SCALARS = (bool, int, float, str, bytes)
# Floats above skip whole numbers, so that their digits may not be those that were written.
_EXACT = 2**53
_LONGEST = 2000  # bits of a whole number that torch loads safely
_INT32 = 2**31


def text_of(value: Any, place: str) -> str:
    """The text of a field: text as it is, and a whole number (5, 5.0, Decimal("5")) in digits.

    Args:
        place: file, row and column, for the error.

    Raises:
        ValueError: for any other value, since its text would depend on how it is formatted.
    """
    if isinstance(value, str):
        return _checked_text(str.__str__(value), place)
    number = _whole(value)
    if number is None:
        raise ValueError(f"{place} must be text or a whole number, got {_shown(value)}: write it as text")
    return str(number)


def question_of(value: Any, place: str) -> str:
    """`text_of` a field that may also be a chat: a list of one turn, of the user, whose content is text."""
    if isinstance(value, (str, numbers.Number, Decimal)) or not isinstance(value, (list, tuple, np.ndarray)):
        return text_of(value, place)
    turns = list(value)
    turn = turns[0] if len(turns) == 1 else None
    filled = {key for key in turn if turn[key] is not None} if isinstance(turn, Mapping) else set()
    if filled != {"role", "content"} or turn["role"] != "user" or not isinstance(turn["content"], str):
        raise ValueError(
            f"{place} must be text, or a chat of one turn, [{{role: user, content: TEXT}}], got {_shown(value)}: write "
            "the question as text; what a system turn says belongs into task.template.text"
        )
    return _checked_text(str.__str__(turn["content"]), place)


def whole_number(value: Any, place: str) -> int:
    """The whole number of a field; 5.0 is 5. Raises ValueError for any other value, or one beyond 32 bits."""
    number = _whole(value)
    if number is None or not -_INT32 <= number < _INT32:
        raise ValueError(f"{place} must be a whole number of at most 32 bits, got {_shown(value)}")
    return number


def plain(value: Any, place: str) -> Any:
    """A value as plain data, which is what a reward gets of it.

    Dates and times become text in ISO 8601, durations seconds, UUIDs text, Decimals numbers, arrays, tuples and sets
    lists, and NumPy's scalars Python's.

    Raises:
        ValueError: for a value that plain data cannot hold exactly.
    """
    kind = type(value)
    if value is None or (kind in _SCALARS and kind is not int):
        return value
    if isinstance(value, Mapping):
        return {plain(key, place): plain(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain_array(value, place)
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{place}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return [plain(item, place) for item in sorted(value, key=repr)]
    if isinstance(value, (datetime.date, datetime.time)):
        return None if value != value else value.isoformat()  # pandas' NaT equals nothing
    if isinstance(value, datetime.timedelta) and (seconds := _seconds(value)) is not None:
        return seconds
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    number = _number(value)
    if number is not None:
        return number
    for base in (str, bytes, float):  # a subclass
        if isinstance(value, base):
            return str.__str__(value) if base is str else base(value)
    raise ValueError(
        f"{place} holds {_shown(value)}, which no checkpoint can store exactly: write it as text, or leave it out"
    )


def _plain_array(value: np.ndarray | np.generic, place: str) -> Any:
    if value.dtype.kind == "M":
        missing = np.isnat(value)
        texts = np.datetime_as_string(value)
        return plain(np.where(missing, None, texts).tolist(), place)
    if value.dtype.kind == "m":
        return (value / np.timedelta64(1, "s")).tolist()
    items = value.tolist()
    if isinstance(items, np.generic):  # a long double, which Python has not
        raise ValueError(f"{place} holds {_shown(value)}, which no checkpoint can store exactly: write it as text")
    return plain(items, place)


def _seconds(value: datetime.timedelta) -> float | None:
    """A duration in seconds; None where a float does not hold its digits."""
    nanoseconds = getattr(value, "nanoseconds", 0)  # of pandas' Timedelta
    exact = Decimal(value.days * 86400 + value.seconds) + Decimal(value.microseconds * 1000 + nanoseconds) / 10**9
    return float(exact) if Decimal(repr(float(exact))) == exact else None


def _number(value: Any) -> int | float | None:
    """An int that torch loads, or a Decimal as the number that it is; None: neither."""
    if isinstance(value, numbers.Integral) and int(value).bit_length() <= _LONGEST:
        return int(value)
    if isinstance(value, Decimal):
        if value.is_nan():
            return math.nan
        if (whole := _whole(value)) is not None:
            return _number(whole)
        if Decimal(repr(float(value))) == value:
            return float(value)
    return None


def _whole(value: Any) -> int | None:
    """The whole number that a value is, None where it is none."""
    if isinstance(value, (bool, np.bool_)):
        return None
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, Decimal):
        return int(value) if value.is_finite() and value == value.to_integral_value() else None
    if isinstance(value, numbers.Real) and abs(value) <= _EXACT and value == math.floor(value):
        return int(value)
    return None


def _checked_text(text: str, place: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{place} has half of a surrogate pair at character {error.start}, which is no text in UTF-8: remove it"
        ) from None
    return text


def _shown(value: Any) -> str:
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:80] + '...'} ({name})"
