"""Questions that come again among the prompts of a task: each is scored once.

Which question comes at an index is drawn, or goes round a data set, so a split may hold one several times. Its scores
are one sample of the task: counted again and again they would shrink an interval over prompts. Two prompts are the same
question where their text is the same, whatever answer is noted beside it (some tasks note one of several).
"""

import logging
from collections.abc import Callable, Hashable, Iterable
from typing import Any, TypeVar

from r1lab.task.protocol import Task
from r1lab.types import Prompt

T = TypeVar("T")

log = logging.getLogger("r1lab.task")


def different(items: Iterable[T], key: Callable[[T], Hashable]) -> list[T]:
    """Each item once, the first of those with one key, in order."""
    first: dict[Hashable, T] = {}
    for item in items:
        first.setdefault(key(item), item)
    return list(first.values())


def question_key(prompt: Prompt) -> str:
    """What makes two prompts the same question."""
    return prompt.text


def pair_key(pair: Any) -> tuple[str, str, str]:
    """What makes two preferences (`r1lab.data.preferences.Preference`) the same."""
    return question_key(pair.prompt), pair.chosen, pair.rejected


def first_prompts(task: Task, split: str, count: int, *, log_repeats: bool = True) -> list[Prompt]:
    """The different prompts among the first `count` of a split, in order; logs their number where it is smaller."""
    prompts = different((task.sample(split, index) for index in range(count)), question_key)
    if len(prompts) < count and log_repeats:
        log.info(f"{split}: {len(prompts)} different prompts of {count} asked for; each is scored once")
    return prompts
