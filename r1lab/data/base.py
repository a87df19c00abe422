"""What every data module around a task shares: the same validation prompts each time, and the step to go on from."""

from typing import Any

import lightning as L
from torch.utils.data import DataLoader

from r1lab.task.different import first_prompts
from r1lab.task.protocol import Task


class TaskData(L.LightningDataModule):
    """Prompts of a task's validation split for scoring; what is trained on is the subclass's.

    Args:
        task: where prompts come from.
        validation_prompts: how many prompts of the validation split are drawn, the same each time; each different one
            is scored once.
    """

    def __init__(self, task: Task, *, validation_prompts: int):
        super().__init__()
        if validation_prompts < 1:
            raise ValueError(f"data.validation_prompts must be at least 1, got {validation_prompts}")
        self.task, self.validation_prompts = task, validation_prompts
        self.first_step = 0  # the training step that the first batch is for, above 0 in a run that goes on

    def val_dataloader(self) -> DataLoader:
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        prompts = first_prompts(self.task, "validation", self.validation_prompts, log_repeats=rank == 0)
        return DataLoader([prompts[rank::ranks]], batch_size=None)

    def transfer_batch_to_device(self, batch, device, dataloader_idx: int):
        # Prompts and microbatches are put on the device one by one, when their turn comes.
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.trainer.lightning_module.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.first_step = state["step"]
