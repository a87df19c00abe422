"""Documents for supervised training: (prompt, completion) texts in fixed batches, numbered so that a resume goes on."""

from collections.abc import Iterator
from typing import Protocol

from torch.utils.data import DataLoader, IterableDataset
from transformers import PreTrainedTokenizerBase

from r1lab.data.base import TaskData
from r1lab.rollout.collate import Batch, collate, microbatches
from r1lab.task.protocol import Task


class Documents(Protocol):
    """Where documents come from: endless, each made from its number."""

    def document(self, index: int) -> tuple[str, str]:
        """The texts of prompt and completion, without the end-of-sequence token."""
        ...


class DocumentBatches(IterableDataset):
    """Batch s holds the documents s * batch_size .. (s + 1) * batch_size - 1, the rank's share, in microbatches."""

    def __init__(
        self,
        documents: Documents,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int,
        microbatch_tokens: int,
        padding_free: bool,
        rank: int,
        world_size: int,
        first_step: int,
    ):
        if batch_size % world_size:
            raise ValueError(f"data.batch_size={batch_size} does not divide among {world_size} ranks")
        self.documents, self.tokenizer = documents, tokenizer
        self.batch_size, self.microbatch_tokens, self.padding_free = batch_size, microbatch_tokens, padding_free
        self.rank, self.world_size, self.first_step = rank, world_size, first_step

    def __iter__(self) -> Iterator[list[Batch]]:
        step, eos = self.first_step, [self.tokenizer.eos_token_id]
        while True:
            numbers = range(step * self.batch_size + self.rank, (step + 1) * self.batch_size, self.world_size)
            texts = [self.documents.document(i) for i in numbers]
            prompts, completions = (
                self.tokenizer(list(side), add_special_tokens=False)["input_ids"] for side in zip(*texts, strict=True)
            )
            rows = [(prompt, [*ids, *eos]) for prompt, ids in zip(prompts, completions, strict=True)]
            lengths, packed = [len(prompt) + len(ids) for prompt, ids in rows], self.padding_free
            parts = microbatches(lengths, self.microbatch_tokens, packed=packed)
            columns = [zip(*(rows[i] for i in part), strict=True) for part in parts]
            yield [collate(*column, self.tokenizer.pad_token_id, packed=packed) for column in columns]
            step += 1


class DocumentData(TaskData):
    """Documents for training, prompts of a task's validation split for scoring.

    Args (beside those of `TaskData`):
        documents: where they come from. tokenizer: makes ids of them.
        batch_size: documents a step over all ranks. microbatch_tokens: tokens a forward pass may hold, padding included
            (0: all). padding_free: batches are packed (see `r1lab.rollout.collate.Batch`).
    """

    def __init__(
        self,
        documents: Documents,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        *,
        batch_size: int,
        microbatch_tokens: int,
        padding_free: bool,
        validation_prompts: int,
    ):
        super().__init__(task, validation_prompts=validation_prompts)
        self.documents, self.tokenizer = documents, tokenizer
        self.batch_size, self.microbatch_tokens, self.padding_free = batch_size, microbatch_tokens, padding_free

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        batches = DocumentBatches(
            self.documents,
            self.tokenizer,
            batch_size=self.batch_size,
            microbatch_tokens=self.microbatch_tokens,
            padding_free=self.padding_free,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            first_step=self.first_step,
        )
        return DataLoader(batches, batch_size=None)
