"""Prompts for RL: each rollout brings the next ones of the train split, validation is always the same."""

from collections.abc import Iterator

from torch.utils.data import DataLoader, IterableDataset

from r1lab.data.base import TaskData
from r1lab.task.protocol import Task
from r1lab.types import Prompt


class RolloutPrompts(IterableDataset):
    """One item a training step: the prompts of a new rollout where one is due, else none.

    Rollout r takes the prompts numbered r * P .. (r + 1) * P - 1, so a resumed run neither repeats nor skips any.
    """

    def __init__(self, task: Task, prompts_per_rollout: int, updates_per_rollout: int, rank: int, world_size: int):
        if prompts_per_rollout % world_size:
            raise ValueError(
                f"rollout.batch_size / rollout.group_size = {prompts_per_rollout} prompts a rollout "
                f"does not divide among {world_size} ranks"
            )
        self.task, self.per_rollout, self.updates = task, prompts_per_rollout, updates_per_rollout
        self.rank, self.world_size = rank, world_size
        self.step = 0

    def __iter__(self) -> Iterator[list[Prompt]]:
        step = self.step
        while True:
            rollout, used = divmod(step, self.updates)
            mine = range(self.rank, self.per_rollout, self.world_size)
            yield [] if used else [self.task.sample("train", rollout * self.per_rollout + i) for i in mine]
            step += 1


class PromptData(TaskData):
    """Prompts of a task for GRPO.

    Args (beside those of `TaskData`):
        prompts_per_rollout: P, over all ranks.
        updates_per_rollout: training steps that a rollout serves.
    """

    def __init__(self, task: Task, *, prompts_per_rollout: int, updates_per_rollout: int, validation_prompts: int):
        super().__init__(task, validation_prompts=validation_prompts)
        self.prompts_per_rollout, self.updates_per_rollout = prompts_per_rollout, updates_per_rollout

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        prompts = RolloutPrompts(
            self.task, self.prompts_per_rollout, self.updates_per_rollout, trainer.global_rank, trainer.world_size
        )
        prompts.step = self.first_step
        return DataLoader(prompts, batch_size=None)
