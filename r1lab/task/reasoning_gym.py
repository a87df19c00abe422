"""Tasks of reasoning-gym (Stojanovski et al. 2025, arXiv 2505.24760) by name.

Answers are scored by the data sets' own scorers, whose full score `r1lab.task.gym_rules` must confirm.

An item is made by a dataset of size one whose seed comes from (split, index, attempt), every split from its own range
of seeds. A hash of the question says which split it belongs to, and a question of another split is passed over for the
next attempt's: so no two splits share one, however few questions a dataset has.

Some scorers evaluate the answer as Python. What a policy wrote is not run: those get literals or plain formulas only.
"""

import ast
import dataclasses
import difflib
import hashlib
import json
import random
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from types import ModuleType
from typing import Any

import numpy as np

from r1lab.model.tokenizer import encode_prompt
from r1lab.packages import needed
from r1lab.task import gym_rules
from r1lab.task.columns import plain
from r1lab.task.expression import FUNCTIONS, is_plain_formula
from r1lab.task.protocol import SPLITS
from r1lab.task.template import Template
from r1lab.types import Prompt

_NEEDED = partial(needed, "task=reasoning_gym", "reasoning-gym", "pip install 'r1lab[reasoning-gym]'")
# Tenths of all questions that belong to each split. Train is drawn from most, and so finds its own soonest.
_SHARES = {"train": 4, "validation": 2, "heldout": 2, "harder": 2}
# Seeds of a split. All of them stay below 2**32, the limit of NumPy's seeds, which some datasets use.
_SEEDS = 2**29
_ATTEMPTS = 1000
_CACHED_ENTRIES = 4096
# Values that a part of an entry's difficulty may take.
_LEVELS = 20
# Python's fractions write such a number out in full, digit for digit.
_HUGE_NUMBER = re.compile(r"[0-9.][eE][+-]?[0-9_,]{4}")
# Datasets whose scorers call `eval` on an answer, to read it as a list.
_READ_AS_LITERAL = ("binary_matrix", "n_queens", "spiral_matrix", "string_insertion")
# Datasets whose scorers give an answer to `sympy.parse_expr`, with the functions that it may call.
_READ_AS_FORMULA = {
    "countdown": frozenset(),
    "puzzle24": frozenset(),
    "polynomial_multiplication": frozenset(),
    "simple_integration": FUNCTIONS,
    "intermediate_integration": FUNCTIONS,
}


def split_of(question: str) -> str:
    """The split that a question belongs to."""
    tenth = int.from_bytes(hashlib.sha256(question.encode()).digest()[:8], "big") % 10
    return [split for split in SPLITS for _ in range(_SHARES[split])][tenth]


def difficulty(metadata: Mapping[str, Any], otherwise: int) -> int:
    """How hard an entry is: the sum of its own numbers of what its dataset calls difficulty (of chain_sum num_terms and
    num_digits), of lists their lengths. Left out is what has a wide range, such as countdown's target, which would
    make a level of almost each entry. `otherwise` where nothing is told."""
    ranges = metadata.get("difficulty")
    known = []
    for key, bounds in ranges.items() if isinstance(ranges, Mapping) else ():
        own = metadata.get(key)
        size = len(own) if isinstance(own, list) else own
        if _is_int(size) and len(_pair(bounds)) == 2 and bounds[1] - bounds[0] < _LEVELS:
            known.append(size)
    return sum(known) if known else otherwise


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _pair(bounds: Any) -> Sequence[int]:
    """Bounds that are a pair of whole numbers, else nothing."""
    return bounds if isinstance(bounds, (list, tuple)) and all(map(_is_int, bounds)) else ()


class ReasoningGym:
    """A reasoning-gym dataset as a task.

    Args:
        tokenizer, template: from the question to the prompt's ids.
        name: of the dataset, such as `chain_sum`.
        config: its parameters; those not given keep reasoning-gym's defaults.
        harder_config: parameters that `harder` changes; without them there is no such split.
        harder_configs: the same by name, for tasks that are not given one.
        columns: what of an entry's metadata prompts carry for rewards, by name of the dataset.

    A pickled one has no tokenizer: it scores answers, and samples no prompts.

    Raises:
        ImportError: reasoning-gym, or a module that it imports, is not installed.
        ValueError: unknown name or parameter (with the nearest ones), a dataset that cannot be scored soundly, or a
            value that the dataset refuses.
    """

    def __init__(
        self,
        tokenizer,
        template: Template,
        name: str,
        config: Mapping[str, Any] | None = None,
        harder_config: Mapping[str, Any] | None = None,
        harder_configs: Mapping[str, Mapping[str, Any]] | None = None,
        columns: Mapping[str, Sequence[str]] | None = None,
    ):
        harder_config = harder_config or (harder_configs or {}).get(name)
        self.tokenizer, self.template, self.name = tokenizer, template, name
        self._config_class = _config_class(name)
        self.columns = tuple((columns or {}).get(name, ()))
        if name in _READ_AS_LITERAL:
            # Shadows the built-in within that scorer's module alone.
            sys.modules[self._config_class.__module__].eval = ast.literal_eval
        self.config = dict(config or {})
        self.harder_config = {**self.config, **harder_config} if harder_config else None
        self._check_keys("config", self.config)
        self._check_keys("harder_config", harder_config or {})
        if self.harder_config == self.config:
            raise ValueError("task.harder_config changes nothing: give it other values than task.config has")
        self.splits = SPLITS if self.harder_config else SPLITS[:3]
        self._scorers = {"harder": self._dataset(self.harder_config, 0)} if self.harder_config else {}
        self._scorers |= dict.fromkeys(SPLITS[:3], self._dataset(self.config, 0))
        # Scoring needs the whole entry, which follows from (split, index) and is not worth a place in every record.
        self._entry = lru_cache(_CACHED_ENTRIES)(self._make_entry)

    def __reduce__(self):
        return ReasoningGym, (None, self.template, self.name, self.config, self.harder_config)

    def sample(self, split: str, index: int) -> Prompt:
        entry = self._entry(split, index)
        text = self.template(entry["question"])
        return Prompt(
            ids=tuple(encode_prompt(self.tokenizer, text)),
            text=text,
            answer=_right_answer(self.name, entry),
            index=index,
            kind=self.name,
            difficulty=difficulty(entry["metadata"], int(split == "harder")),
            columns={"question": entry["question"], "split": split}
            | {column: plain(entry["metadata"][column], f"column {column}") for column in self.columns},
        )

    def is_correct(self, prompt: Prompt, answer: str) -> float:
        """1 for a right answer, by `r1lab.task.gym_rules`; else the dataset's own score if it is below 1, or 0.

        Many datasets give part of the score to an answer that is nearly right. They give it also for the right answer
        among others (`Yes No`) or with a tail: such an answer gets 0.
        """
        split = prompt.columns["split"]
        entry = self._entry(split, prompt.index)
        answer = answer.strip()
        if not answer:
            return 0.0
        if gym_rules.same_text(answer, entry["answer"] or ""):
            return 1.0
        if not self._may_be_scored(answer):
            return 0.0
        try:
            with _NEEDED():
                score = float(self._scorers[split].score_answer(answer, entry))
                if score >= 1:
                    return float(gym_rules.agrees(self.name, answer, entry))
        except ImportError:
            raise
        except Exception:
            # Several scorers raise on text that they cannot parse, and such an answer is wrong.
            return 0.0
        hedged = gym_rules.holds(answer, entry["answer"] or "")
        return score if score > 0 and not hedged else 0.0  # NaN is not above 0

    def _may_be_scored(self, answer: str) -> bool:
        formula = self.name in _READ_AS_FORMULA
        return (
            not _HUGE_NUMBER.search(answer)
            and gym_rules.has_form(self.name, answer)
            and (not formula or is_plain_formula(answer, _READ_AS_FORMULA[self.name]))
        )

    def _make_entry(self, split: str, index: int) -> dict[str, Any]:
        config = self._split_config(split)
        for attempt in range(_ATTEMPTS):
            seed = _seed(split, index, attempt)
            with _own_generators(seed), _NEEDED():
                entry = self._dataset(config, seed)[0]
            # An empty answer cannot be given: a completion without text between its tags has none.
            if split_of(entry["question"]) == split and entry["answer"] != "":
                return entry
        raise ValueError(
            f"reasoning-gym dataset {self.name!r} makes too few different questions for the split {split!r}: "
            f"none of {_ATTEMPTS} belongs to it; widen its parameters in task.{'harder_' * (split == 'harder')}config"
        )

    def _split_config(self, split: str) -> dict[str, Any]:
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
        if split != "harder":
            return self.config
        if self.harder_config is None:
            raise ValueError(
                f"the split 'harder' of {self.name!r} needs task.harder_config: parameters that make its problems "
                f"harder than those of task.config; there are {', '.join(self._parameters())}"
            )
        return self.harder_config

    def _dataset(self, config: Mapping[str, Any], seed: int):
        try:
            with _NEEDED():
                return _library().create_dataset(self.name, **config, seed=seed, size=1)
        except (AssertionError, TypeError, ValueError) as error:
            raise ValueError(f"reasoning-gym dataset {self.name!r} refuses {dict(config)}: {error}") from error

    def _parameters(self) -> list[str]:
        return [f.name for f in dataclasses.fields(self._config_class) if f.name not in ("seed", "size")]

    def _check_keys(self, setting: str, config: Mapping[str, Any]) -> None:
        for key in config:
            if key in ("seed", "size"):
                raise ValueError(f"task.{setting}.{key} is not yours to set: it follows from split and index")
            if key not in self._parameters():
                nearest = difflib.get_close_matches(key, self._parameters(), n=3) or self._parameters()
                raise ValueError(f"{self.name!r} has no parameter task.{setting}.{key}; nearest: {', '.join(nearest)}")


def _library() -> ModuleType:
    with _NEEDED():
        import reasoning_gym
    return reasoning_gym


def _config_class(name: str) -> type:
    datasets = _library().factory.DATASETS
    if name not in datasets:
        nearest = difflib.get_close_matches(name, datasets, n=3, cutoff=0.4) or sorted(datasets)[:3]
        raise ValueError(f"reasoning-gym has no dataset {name!r} (task.name); nearest: {', '.join(nearest)}")
    if name in gym_rules.REJECTED:
        raise ValueError(f"task.name={name} cannot be scored soundly: {gym_rules.REJECTED[name]}")
    return datasets[name][1]


def _right_answer(name: str, entry: Mapping[str, Any]) -> str:
    """The entry's own answer, or an example of one; empty where it has neither."""
    right = entry["answer"]
    if right is None:
        right = entry["metadata"].get(gym_rules.EXAMPLES.get(name), "")
    return right if isinstance(right, str) else json.dumps(right)


def _seed(split: str, index: int, attempt: int) -> int:
    digest = hashlib.sha256(f"{index}/{attempt}".encode()).digest()
    return SPLITS.index(split) * _SEEDS + int.from_bytes(digest[:8], "big") % _SEEDS


@contextmanager
def _own_generators(seed: int) -> Iterator[None]:
    """Seed Python's and NumPy's global generators, then put them back: some datasets draw from them, or seed them."""
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
