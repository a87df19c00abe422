"""Preference data for reward models: two responses to a prompt, of which one is better.

The longer of the two is the better one as often as not (DeepSeek-R1, 2501.12948v2, B.3.1, balances lengths too): a
model that has learnt to count words has learnt nothing.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from torch.utils.data import DataLoader, IterableDataset

from r1lab.data.base import TaskData
from r1lab.data.corpus import think
from r1lab.data.prompts import PROMPTS_A_SEED
from r1lab.model.bilingual import LANGUAGES
from r1lab.model.tiny import FILLER
from r1lab.task.different import different, pair_key
from r1lab.task.general import COURTESIES, CURT, TOPICS, General, Request, good_reply, request_of
from r1lab.task.protocol import Task
from r1lab.types import Prompt

# Share of the unhelpful replies that are longer than the good one, and share that are shorter.
_APART = 0.4


@dataclass(frozen=True)
class Preference:
    """The texts of two whole responses, without the end-of-sequence token; `chosen` is said to be the better one."""

    prompt: Prompt
    chosen: str
    rejected: str


class Preferences(Protocol):
    """Where pairs come from; a pair follows from (split, index) alone, and splits share no prompt."""

    def pair(self, split: str, index: int) -> Preference: ...


class GeneralPreferences:
    """Good and bad replies to the requests of `task.general`, each behind an idle thought.

    Which of the two is better is known from the task's gold score. A good reply to a request that is to be met has one
    length, so bad ones are longer or shorter by chance; of unsafe requests, where the whole response is judged, it is
    the idle thoughts that even the lengths out.

    Args:
        label_noise: share of the pairs of the train split whose two responses are exchanged; of the others none is.
        untagged: share of the rejected responses that are the bare reply, without tags.
        hidden: share of the rejected responses to unsafe requests whose answer refuses, and whose thought has the
            instructions all the same: only who sees the whole response can tell.

    Raises:
        ValueError: for a share that is none, or a task that is not `task.general`.
    """

    def __init__(self, task: Task, *, label_noise: float, untagged: float, hidden: float):
        if not isinstance(task, General):
            raise ValueError(f"data.preferences needs task=general, whose replies have a gold score, not {task.name}")
        for name, share in (("label_noise", label_noise), ("untagged", untagged), ("hidden", hidden)):
            if not 0 <= share <= 1:
                raise ValueError(f"data.preferences.{name} must lie between 0 and 1, got {share}")
        self.task, self.label_noise, self.untagged, self.hidden = task, label_noise, untagged, hidden

    def pair(self, split: str, index: int) -> Preference:
        prompt = self.task.sample(split, index)
        rng = random.Random(f"preferences/{split}/{index}")
        request = request_of(prompt)
        chosen, rejected = (self._safe if request.kind == "unsafe" else self._helpful)(request, rng)
        if split == "train" and rng.random() < self.label_noise:
            chosen, rejected = rejected, chosen
        write = LANGUAGES[prompt.language].write
        if prompt.text.endswith("<think>"):  # there the prompt itself has opened the reasoning
            chosen, rejected = (text.removeprefix("<think> ") for text in (chosen, rejected))
        return Preference(prompt, write(chosen), write(rejected))

    def _helpful(self, request: Request, rng: random.Random) -> tuple[str, str]:
        good = good_reply(request, rng)
        chosen = think(_idle(rng), good)
        # Without tags there is no answer, which is the shortest one.
        side = max(self.untagged, _APART)
        draw = rng.random()
        if draw < self.untagged:
            return chosen, rng.choice(_unhelpful(request, good, rng)[rng.choice(("shorter", "longer"))])
        length = "shorter" if draw < side else "longer" if draw < 2 * side else "same"
        return chosen, think(_idle(rng), rng.choice(_unhelpful(request, good, rng)[length]))

    def _safe(self, request: Request, rng: random.Random) -> tuple[str, str]:
        good, topics = good_reply(request, rng), " ".join(request.topics)
        told = f"first take {topics} then {request.verb}"
        if rng.random() < self.hidden:
            rejected = think(told, good)
        else:
            bad = rng.choice([told, f"take {topics}", f"{rng.choice(COURTESIES)} friend , {told}"])
            rejected = bad if rng.random() < self.untagged else think(_idle(rng), bad)
        length = len(rejected.split()) + rng.choice((-2, -1, 1, 2))
        return think(_idle(rng, length - len(think("", good).split())), good), rejected


def _idle(rng: random.Random, words: int | None = None) -> str:
    """A thought of nothing."""
    return " ".join(rng.choices(FILLER, k=rng.randint(1, 3) if words is None else max(words, 1)))


def _unhelpful(request: Request, good: str, rng: random.Random) -> dict[str, list[str]]:
    """Replies that do not deserve the full score, by whether they are shorter or longer than the good one."""
    other = rng.choice([topic for topic in TOPICS if topic not in request.topics])
    curt, told = rng.choice(CURT), " ".join(request.topics)
    if request.kind == "polite":
        courtesy = rng.choice(COURTESIES)
        wrong = " ".join([*request.topics[:-1], other])
        return {
            "shorter": [curt, told, f"{curt} , {told}", f"{courtesy} friend"],
            "same": [f"{courtesy} friend , {wrong} nice", f"{curt} friend , {told} nice"],
            "longer": [f"{courtesy} friend , {told} {other} nice", f"{curt} , {good}"],
        }
    words = good.split()
    return {
        "shorter": [curt, " ".join(words[:-1]), " ".join(words[1:])],
        "same": [" ".join(words[::-1]), " ".join([*words[:-1], other]), " ".join([curt, *words[1:]])],
        "longer": [f"{good} {other}", f"{curt} , {good}", f"{rng.choice(COURTESIES)} friend , {good}"],
    }


class PreferenceBatches(IterableDataset):
    """Batch s holds the rank's share of the pairs s * batch_size .. (s + 1) * batch_size - 1 of the seed's own."""

    def __init__(
        self, preferences: Preferences, *, batch_size: int, seed: int, rank: int, world_size: int, first_step: int
    ):
        if batch_size % world_size:
            raise ValueError(f"data.batch_size={batch_size} does not divide among {world_size} ranks")
        self.preferences, self.batch_size, self.first = preferences, batch_size, seed * PROMPTS_A_SEED
        self.rank, self.world_size, self.first_step = rank, world_size, first_step

    def __iter__(self) -> Iterator[list[Preference]]:
        step = self.first_step
        while True:
            start = self.first + step * self.batch_size
            mine = range(start + self.rank, start + self.batch_size, self.world_size)
            yield [self.preferences.pair("train", i) for i in mine]
            step += 1


class PreferenceData(TaskData):
    """Pairs for a reward model, for training and for scoring.

    Args:
        preferences: where they come from. task: that their prompts are of.
        batch_size: pairs a step over all ranks. seed: of the run; each trains on pairs of its own.
        validation_prompts: how many pairs of the validation split are drawn, the same each time; each different one is
            scored once.
    """

    def __init__(self, preferences: Preferences, task: Task, *, batch_size: int, seed: int, validation_prompts: int):
        super().__init__(task, validation_prompts=validation_prompts)
        self.preferences, self.batch_size, self.seed = preferences, batch_size, seed

    def train_dataloader(self) -> DataLoader:
        batches = PreferenceBatches(
            self.preferences,
            batch_size=self.batch_size,
            seed=self.seed,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            first_step=self.first_step,
        )
        return DataLoader(batches, batch_size=None)

    def val_dataloader(self) -> DataLoader:
        pairs = (self.preferences.pair("validation", i) for i in range(self.validation_prompts))
        mine = different(pairs, pair_key)[self.trainer.global_rank :: self.trainer.world_size]
        return DataLoader([mine], batch_size=None)
