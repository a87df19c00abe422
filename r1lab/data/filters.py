"""Filters of sampled completions: which become training data (DeepSeek-R1, 2501.12948v2, B.3.2 and B.3.3).

A filter is a pure function of a row of `r1lab.generate`, True for a row that stays.
"""

import inspect
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

Row = Mapping[str, Any]
Filter = Callable[[Row], bool]


def correct(row: Row) -> bool:
    """Scored 1 by the task's checker, and not ended by the length limit."""
    return row["accuracy"] >= 1 and not row["truncated"]


def wellformed(row: Row) -> bool:
    """Exactly reasoning, then answer."""
    return row["wellformed"]


def one_language(row: Row, *, at_least: float, wordless: bool = False) -> bool:
    """At least that share of the reasoning's words is of the prompt's language.

    Reasoning without words is of none; wordless: it passes, where one reasons in figures.
    """
    share = row["language_consistency"]
    return wordless if share is None else share >= at_least


def no_repetition(row: Row, *, ngram: int, at_most: float) -> bool:
    """At most that share of the completion's n-grams of tokens occurred before in it."""
    return repeated(row["completion_ids"], ngram) <= at_most


def paragraphs(row: Row, *, most: int) -> bool:
    """No paragraph, which is what blank lines part, has more than that many characters."""
    return all(len(paragraph) <= most for paragraph in re.split(r"\n\s*\n", row["completion"]))


def no_code(row: Row) -> bool:
    """No block of code in it."""
    return re.search(r"^\s*(```|~~~)", row["completion"], re.MULTILINE) is None


def length(row: Row, *, least: int, most: int) -> bool:
    """The completion has at least and at most so many tokens."""
    return least <= row["length"] <= most


FILTERS = {f.__name__: f for f in (correct, wellformed, one_language, no_repetition, paragraphs, no_code, length)}


def make_filters(settings: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Filter]:
    """Filters by name, in order, with their settings; None: no filter.

    Raises:
        ValueError: for a name that is none, and settings that are not those of the filter, or not of its kind.
    """
    settings = {} if settings is None else settings
    if not isinstance(settings, Mapping):
        raise ValueError(f"filters must be a mapping {{name: {{option: value}}}}, or null for none, got {settings!r}")
    if unknown := set(settings) - set(FILTERS):
        raise ValueError(f"there is no filter {', '.join(sorted(unknown))}; there are {', '.join(FILTERS)}")
    for name, options in settings.items():
        takes = {key: p for key, p in inspect.signature(FILTERS[name]).parameters.items() if key != "row"}
        needed = {key for key, p in takes.items() if p.default is p.empty}
        if not isinstance(options, Mapping) or not needed <= set(options) <= set(takes):
            raise ValueError(f"the filter {name} takes {{{', '.join(f'{key}: ...' for key in takes)}}}, got {options}")
        for key, value in options.items():
            switch = takes[key].annotation is bool
            if isinstance(value, bool) != switch or not isinstance(value, (int, float)):
                kind = "true or false" if switch else "a number"
                raise ValueError(f"{name}.{key} must be {kind}, got {value!r}")
    return {name: partial(FILTERS[name], **options) for name, options in settings.items()}


def repeated(words: Sequence[Any], ngram: int) -> float:
    """Share of the n-grams that occurred before; 0 where there is none."""
    grams = [tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def keep(rows: Sequence[Row], filters: Mapping[str, Filter], *, per_prompt: int) -> tuple[list[Row], dict[str, int]]:
    """What all filters leave of the rows, in order, and how many each took: the first that a row fails counts.

    Of equal completions of a prompt the first stays (`duplicate` counts the others), and of each prompt at most
    `per_prompt` (`more_of_a_prompt`).
    """
    kept, taken = [], Counter(dict.fromkeys([*filters, "duplicate", "more_of_a_prompt"], 0))
    seen: set[tuple[str, str]] = set()
    of_prompt: Counter[str] = Counter()
    for row in rows:
        failed = next((name for name, stays in filters.items() if not stays(row)), None)
        key = (row["prompt"], row["completion"])
        if failed is None and key in seen:
            failed = "duplicate"
        if failed is None and of_prompt[row["prompt"]] >= per_prompt:
            failed = "more_of_a_prompt"
        if failed is None:
            kept.append(row)
            seen.add(key)
            of_prompt[row["prompt"]] += 1
        else:
            taken[failed] += 1
    return kept, dict(taken)
