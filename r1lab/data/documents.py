"""Documents for supervised training: (prompt, completion) texts in fixed batches, numbered so that a resume goes on."""

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Protocol

from torch.utils.data import DataLoader, IterableDataset
from transformers import PreTrainedTokenizerBase

from r1lab.data.base import TaskData
from r1lab.model.tokenizer import encode_prompts, eos_of
from r1lab.rollout.collate import Batch, collate, microbatches
from r1lab.task.protocol import Task

HELD_OUT = 2**40  # the number of the first validation document; no run comes so far


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
        step = self.first_step
        while True:
            numbers = range(step * self.batch_size + self.rank, (step + 1) * self.batch_size, self.world_size)
            options = (self.tokenizer, self.microbatch_tokens, self.padding_free)
            yield in_microbatches(self.documents, numbers, *options)
            step += 1


def in_microbatches(
    documents: Documents,
    numbers: Iterable[int],
    tokenizer: PreTrainedTokenizerBase,
    microbatch_tokens: int,
    padding_free: bool,
) -> list[Batch]:
    """The documents of these numbers, each ended by the end-of-sequence token."""
    texts = [documents.document(i) for i in numbers]
    prompts, completions = zip(*texts, strict=True)
    prompt_ids, end = encode_prompts(tokenizer, prompts), eos_of(tokenizer)
    completion_ids = tokenizer(list(completions), add_special_tokens=False)["input_ids"]
    rows = [(prompt, [*ids, end]) for prompt, ids in zip(prompt_ids, completion_ids, strict=True)]
    lengths = [len(prompt) + len(ids) for prompt, ids in rows]
    parts = microbatches(lengths, microbatch_tokens, packed=padding_free)
    columns = [zip(*(rows[i] for i in part), strict=True) for part in parts]
    return [collate(*column, tokenizer.pad_token_id, packed=padding_free) for column in columns]


class DocumentData(TaskData):
    """Documents for training, prompts of a task's validation split for scoring.

    Args (beside those of `TaskData`):
        documents: where they come from. tokenizer: makes ids of them.
        batch_size: documents a step over all ranks. microbatch_tokens: tokens a forward pass may hold, padding included
            (0: all). padding_free: batches are packed (see `r1lab.rollout.collate.Batch`).
        validation_documents: documents that are not trained on, for the loss of each validation; 0: none. Only where
            documents are endless.
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
        validation_documents: int,
    ):
        super().__init__(task, validation_prompts=validation_prompts)
        if validation_documents < 0:
            raise ValueError(f"data.validation_documents must be at least 0, got {validation_documents}")
        self.validation_documents = validation_documents
        self.documents, self.tokenizer = documents, tokenizer
        self.batch_size, self.microbatch_tokens, self.padding_free = batch_size, microbatch_tokens, padding_free

    @cached_property
    def held_out(self) -> list[Batch]:
        """This rank's share of the validation documents, in microbatches; of another rank's count at times."""
        ranks = self.trainer.global_rank, self.trainer.world_size
        if 0 < self.validation_documents < ranks[1]:
            raise ValueError(
                f"data.validation_documents={self.validation_documents} leaves some of {ranks[1]} ranks without one: "
                "take 0, or at least as many as there are ranks"
            )
        numbers = range(HELD_OUT + ranks[0], HELD_OUT + self.validation_documents, ranks[1])
        options = (self.tokenizer, self.microbatch_tokens, self.padding_free)
        return in_microbatches(self.documents, numbers, *options) if numbers else []

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
