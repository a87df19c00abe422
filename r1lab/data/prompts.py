"""Prompts for RL: each rollout brings the next ones of the train split, validation is always the same."""

from collections.abc import Iterator

from torch.utils.data import DataLoader, IterableDataset

from r1lab.data.base import TaskData
from r1lab.task.protocol import Task
from r1lab.types import Prompt

# Far more than any run takes; those of every seed that Lightning accepts (below 2**32) fit 64 bits.
PROMPTS_A_SEED = 2**31


class RolloutPrompts(IterableDataset):
    """One item a training step: the prompts of a new rollout where one is due, else none.

    Rollout r takes the prompts numbered r * P .. (r + 1) * P - 1 of the seed's own, so a resumed run neither repeats
    nor skips any, and two seeds share none.
    """

    def __init__(
        self, task: Task, prompts_per_rollout: int, updates_per_rollout: int, *, seed: int, rank: int, world_size: int
    ):
        if prompts_per_rollout % world_size:
            raise ValueError(
                f"rollout.batch_size / rollout.group_size = {prompts_per_rollout} prompts a rollout "
                f"does not divide among {world_size} ranks"
            )
        self.task, self.per_rollout, self.updates = task, prompts_per_rollout, updates_per_rollout
        self.first, self.rank, self.world_size = seed * PROMPTS_A_SEED, rank, world_size
        self.step = 0

    def __iter__(self) -> Iterator[list[Prompt]]:
        step = self.step
        while True:
            rollout, used = divmod(step, self.updates)
            mine = range(self.rank, self.per_rollout, self.world_size)
            start = self.first + rollout * self.per_rollout
            yield [] if used else [self.task.sample("train", start + i) for i in mine]
            step += 1


class PromptData(TaskData):
    """Prompts of a task for GRPO.

    Args (beside those of `TaskData`):
        prompts_per_rollout: P, over all ranks.
        updates_per_rollout: training steps that a rollout serves.
        seed: of the run; each trains on prompts of its own.
    """

    def __init__(
        self, task: Task, *, prompts_per_rollout: int, updates_per_rollout: int, seed: int, validation_prompts: int
    ):
        super().__init__(task, validation_prompts=validation_prompts)
        self.seed = seed
        self.prompts_per_rollout, self.updates_per_rollout = prompts_per_rollout, updates_per_rollout

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        prompts = RolloutPrompts(
            self.task,
            self.prompts_per_rollout,
            self.updates_per_rollout,
            seed=self.seed,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        prompts.step = self.first_step
        return DataLoader(prompts, batch_size=None)
