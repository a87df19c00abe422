"""Prompts from several tasks, in given shares."""

import random
from collections.abc import Callable, Mapping
from dataclasses import replace

from r1lab.task.protocol import SPLITS, Task
from r1lab.types import Prompt


class Mixed:
    """Prompt `index` is that of number `index` of one of its parts; which one follows from (split, index) alone.

    Prompts keep their kind; the column `part` says which of the parts they are of. A split is there where all parts
    have it. `vocabularies` holds the words that any part has of a language; parts without leave it to the others.

    Args:
        parts: makes the task of each name. sources: the weight of each part; one without is not made.

    Raises:
        ValueError: for a weight without a part, a negative one, or nothing above 0.
    """

    name = "mixed"

    def __init__(self, parts: Mapping[str, Callable[[], Task]], sources: Mapping[str, float]):
        if unknown := sorted(set(sources) - set(parts)):
            raise ValueError(
                f"task.sources names {', '.join(unknown)}, which is no part; there are {', '.join(parts)}, and "
                f"+task@task.parts.{unknown[0]}=<task> adds it"
            )
        if any(weight < 0 for weight in sources.values()) or not sum(sources.values()):
            raise ValueError(f"task.sources must be weights of at least 0, not all 0, got {dict(sources)}")
        self.parts = {name: parts[name]() for name, weight in sources.items() if weight}
        self.weights = [sources[name] for name in self.parts]
        self.template = next(iter(self.parts.values())).template  # of a question of one's own
        self.vocabularies: dict[str, frozenset[str]] = {}
        for part in self.parts.values():
            for language, words in getattr(part, "vocabularies", {}).items():
                self.vocabularies[language] = self.vocabularies.get(language, frozenset()) | frozenset(words)
        self.splits = tuple(split for split in SPLITS if all(split in part.splits for part in self.parts.values()))

    def sample(self, split: str, index: int) -> Prompt:
        if split not in self.splits:
            raise ValueError(f"unknown split {split!r}; there are {', '.join(self.splits)}")
        (name,) = random.Random(f"{self.name}/{split}/{index}").choices(list(self.parts), self.weights)
        return _of_part(self.parts[name].sample(split, index), name)

    def longest(self, split: str, count: int) -> list[Prompt]:
        """The prompts of the `count` longest questions of each part that is a data set."""
        parts = {name: part.longest for name, part in self.parts.items() if hasattr(part, "longest")}
        return [_of_part(prompt, name) for name, longest in parts.items() for prompt in longest(split, count)]

    def unencoded(self, split: str, count: int) -> list[Prompt]:
        """The first `count` prompts of each part that is a data set, each row once, without ids."""
        parts = {name: part.unencoded for name, part in self.parts.items() if hasattr(part, "unencoded")}
        return [_of_part(prompt, name) for name, unencoded in parts.items() for prompt in unencoded(split, count)]

    def is_correct(self, prompt: Prompt, answer: str) -> float | bool:
        return self.parts[prompt.columns["part"]].is_correct(prompt, answer)


def _of_part(prompt: Prompt, name: str) -> Prompt:
    return replace(prompt, columns={**prompt.columns, "part": name})
