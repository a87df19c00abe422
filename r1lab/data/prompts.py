"""Prompts for RL: each rollout takes the next ones of the train split, validation is always the same."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from r1lab.data.base import TaskData
from r1lab.data.curriculum import Curriculum
from r1lab.task.protocol import Task
from r1lab.types import Prompt

# Far more than any run takes; those of every seed that Lightning accepts (below 2**32) fit 64 bits.
PROMPTS_A_SEED = 2**31
# Prompts whose levels a curriculum is held against.
_CHECKED = 64


class PromptStream:
    """The prompts of the seed's own, in order; each rank has a stream, and all of them take the same counts.

    Two seeds share no prompt, and a run that goes on at its `position` neither repeats nor skips any.

    Args:
        curriculum: passes over prompts; None: every prompt is taken.
    """

    def __init__(self, task: Task, *, seed: int, curriculum: Curriculum | None = None):
        self.task, self.first, self.curriculum = task, seed * PROMPTS_A_SEED, curriculum
        self.rank, self.world_size = 0, 1
        self.position = 0  # how many prompts of the seed have been taken or passed over

    def take(self, count: int) -> list[Prompt]:
        """This rank's share of the next `count` prompts: one in `world_size`, perhaps none."""
        if self.curriculum is not None:
            # Each rank walks all of them, since where the last one lies depends on those before.
            return [self._next_accepted() for _ in range(count)][self.rank :: self.world_size]
        start = self.first + self.position
        self.position += count
        return [self.task.sample("train", start + i) for i in range(self.rank, count, self.world_size)]

    def _next_accepted(self) -> Prompt:
        while True:
            prompt = self.task.sample("train", self.first + self.position)
            self.position += 1
            if self.curriculum.accepts(prompt):
                return prompt

    def state(self) -> dict[str, Any]:
        return {"position": self.position, "rates": self.curriculum.rates if self.curriculum else {}}

    def restore(self, state: dict[str, Any]) -> None:
        self.position = state["position"]
        if self.curriculum:
            self.curriculum.rates = dict(state["rates"])


class RolloutPrompts(IterableDataset):
    """One item a training step: the stream where a new rollout is due, else nothing.

    Lightning asks for an item a step ahead of its training, so what the stream holds is taken from it later: how many
    prompts a rollout needs, and which, may depend on the rollout before.
    """

    def __init__(self, stream: PromptStream, updates_per_rollout: int, *, first_step: int):
        self.stream, self.updates, self.first_step = stream, updates_per_rollout, first_step

    def __iter__(self) -> Iterator[PromptStream | Sequence]:
        step = self.first_step
        while True:
            yield () if step % self.updates else self.stream
            step += 1


class PromptData(TaskData):
    """Prompts of a task for GRPO.

    Args (beside those of `TaskData`):
        updates_per_rollout: training steps that a rollout serves.
        seed: of the run; each trains on prompts of its own.
        curriculum: which prompts are passed over; None, or one that takes every level: none is.
    """

    def __init__(
        self,
        task: Task,
        *,
        updates_per_rollout: int,
        seed: int,
        validation_prompts: int,
        curriculum: Curriculum | None = None,
    ):
        super().__init__(task, validation_prompts=validation_prompts)
        self.updates_per_rollout = updates_per_rollout
        takes_all = curriculum is None or curriculum.takes_every_level
        if not takes_all:
            curriculum.check(task.sample("train", index) for index in range(_CHECKED))
        self.stream = PromptStream(task, seed=seed, curriculum=None if takes_all else curriculum)

    def train_dataloader(self) -> DataLoader:
        self.stream.rank, self.stream.world_size = self.trainer.global_rank, self.trainer.world_size
        prompts = RolloutPrompts(self.stream, self.updates_per_rollout, first_step=self.first_step)
        return DataLoader(prompts, batch_size=None)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"stream": self.stream.state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.stream.restore(state["stream"])
