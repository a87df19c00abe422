"""What a teacher wrote, read shard by shard from a folder of `r1lab.generate`, and prompts for the student's own."""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch.utils.data import DataLoader, IterableDataset
from transformers import PreTrainedTokenizerBase

from r1lab.data.base import TaskData
from r1lab.data.filters import keep, make_filters
from r1lab.data.prompts import PromptStream
from r1lab.model.tokenizer import encode_prompt, encode_text, eos_of, refuse_other_tokens, vocabulary_hash
from r1lab.task.protocol import Task
from r1lab.types import TOP, Prompt, TaughtCompletion

_LONG = ("sampling_logprobs", *TOP)  # which no filter reads
_NEEDED = {  # by the filters and the student
    "prompt",
    "completion",
    "completion_ids",
    "length",
    "truncated",
    "accuracy",
    "wellformed",
    "language_consistency",
}


class TeacherSamples:
    """Endless samples of a folder; sample `index` follows from (seed, index) alone.

    They are gone through in epochs, each once an epoch: the shards in an order drawn anew, and those of a shard. Held
    are a shard or two at a time, and the numbers of the rows that the filters leave.

    Args:
        tokenizer: the student's.
        filters: name -> its settings, see `r1lab.data.filters`. per_prompt: samples a prompt at most.
        top_k: stored logprobs that each place must have; 0: none are read, and a teacher with another tokenizer will
            do: then its text is what counts.
        temperature: that the stored logprobs must be at.

    Raises:
        ValueError: no shards, none that the filters leave, or no such logprobs of the student's tokens.
    """

    def __init__(
        self,
        folder: str | Path,
        tokenizer: PreTrainedTokenizerBase,
        *,
        filters: Mapping[str, Mapping[str, Any]],
        per_prompt: int,
        top_k: int,
        temperature: float,
        seed: int,
    ):
        self.tokenizer, self.top_k, self.seed = tokenizer, top_k, seed
        paths = sorted(Path(folder).glob("shard-*.parquet"))
        if not paths:
            raise ValueError(
                f"data.folder={folder} holds no shards; python -m r1lab.generate checkpoint=TEACHER split=train "
                f"output={folder} writes them"
            )
        meta = _meta_of(Path(folder), paths)
        self.same_tokens = meta.get("tokenizer_sha256") == vocabulary_hash(tokenizer)
        if top_k:
            _check_stored(meta, f"data.folder={folder}", tokenizer, top_k, temperature)
        rows = {path: _kept(path, make_filters(filters), per_prompt) for path in paths}
        self.rows = {path: kept for path, kept in rows.items() if kept}
        self.length = sum(map(len, self.rows.values()))
        if not self.length:
            raise ValueError(f"the filters leave nothing of data.folder={folder}: loosen data.filters")
        self._shard = lru_cache(maxsize=2)(self._read)

    def __len__(self) -> int:
        """Samples an epoch."""
        return self.length

    def sample(self, index: int) -> TaughtCompletion:
        epoch, place = divmod(index, self.length)
        for path, order in _epoch(self.seed, epoch, tuple((path, len(rows)) for path, rows in self.rows.items())):
            if place < len(order):
                row = self._shard(path).slice(self.rows[path][order[place]], 1).to_pylist()[0]
                return self._taught(row)
            place -= len(order)
        raise AssertionError("an epoch holds `length` samples")

    def _read(self, path: Path) -> pa.Table:
        own = ["completion_ids"] if self.same_tokens else ["completion", "truncated"]
        return pq.read_table(path, columns=["prompt", *own, *(TOP if self.top_k else ())])

    def _taught(self, row: Mapping[str, Any]) -> TaughtCompletion:
        prompt = tuple(encode_prompt(self.tokenizer, row["prompt"]))
        if self.same_tokens:
            return TaughtCompletion(prompt, tuple(row["completion_ids"]), *(row[name] for name in TOP if self.top_k))
        # One that the length limit ended has no end to be learnt.
        end = () if row["truncated"] else (eos_of(self.tokenizer),)
        return TaughtCompletion(prompt, (*encode_text(self.tokenizer, row["completion"]), *end))


def _meta_of(folder: Path, paths: Sequence[Path]) -> Mapping[str, Any]:
    """How the shards were made. Raises ValueError where that is not there, or some of them are not."""
    if not (folder / "meta.json").exists():
        raise ValueError(f"data.folder={folder} has no meta.json beside its shards: copy it, too, or write them anew")
    number = int(paths[0].stem.rpartition("-of-")[2])
    if len(paths) < number:
        raise ValueError(
            f"data.folder={folder} holds {len(paths)} of {number} shards: python -m r1lab.generate was interrupted, "
            "and its command goes on where it was"
        )
    return json.loads((folder / "meta.json").read_text())


def _check_stored(
    meta: Mapping[str, Any], place: str, tokenizer: PreTrainedTokenizerBase, top_k: int, temperature: float
) -> None:
    """Refuse stored logprobs that are not there, too few, at another temperature, or of other tokens."""
    stored = meta.get("logprobs")
    if stored is None:
        raise ValueError(
            f"{place} holds no logprobs: add logprobs=top_k logprobs_k={top_k} to the r1lab.generate that "
            "writes it, set module.teacher.name, or take module.mode=sft"
        )
    if stored["k"] < top_k:
        raise ValueError(f"module.k={top_k}, but {place} holds {stored['k']} logprobs a place: lower it")
    if stored["temperature"] != temperature:
        raise ValueError(
            f"module.teacher_temperature={temperature}, but the logprobs in {place} are those at "
            f"{stored['temperature']}: set it to that"
        )
    start = meta.get("special_tokens", [])  # older versions put nothing before a prompt
    refuse_other_tokens(tokenizer, meta["tokenizer_sha256"], start, f"the teacher of {place}")


def _kept(path: Path, filters: Mapping[str, Callable], per_prompt: int) -> list[int]:
    """Numbers of the rows of a shard that the filters leave; a prompt's samples all lie in one shard."""
    try:
        columns = pq.read_schema(path).names
        short = [name for name in columns if name not in _LONG]
        table = pq.read_table(path, columns=short)
    except pa.ArrowException as error:
        raise ValueError(
            f"{path} is damaged ({' '.join(str(error).split())[:80]}): delete it, and give the r1lab.generate command "
            "that wrote it again"
        ) from None
    if missing := sorted(_NEEDED - set(columns)):
        raise ValueError(f"{path} has no column {', '.join(missing)}: python -m r1lab.generate writes them all")
    rows = [{**row, "row": i} for i, row in enumerate(table.to_pylist())]
    return [row["row"] for row in keep(rows, filters, per_prompt=per_prompt)[0]]


@lru_cache(maxsize=4)
def _epoch(seed: int, epoch: int, sizes: tuple[tuple[Path, int], ...]) -> list[tuple[Path, list[int]]]:
    """The shards in the epoch's order, each with that of its rows."""
    drawn = random.Random(f"{seed}/{epoch}")
    order = [(path, drawn.sample(range(size), size)) for path, size in sizes]
    drawn.shuffle(order)
    return order


class TaughtBatches(IterableDataset):
    """Step s: the prompts that the student is to answer, and the teacher's samples; this rank's share of each."""

    def __init__(
        self,
        stream: PromptStream,
        samples: TeacherSamples | None,
        *,
        num_prompts: int,
        num_samples: int,
        rank: int,
        world_size: int,
        first_step: int,
    ):
        self.stream, self.samples = stream, samples
        self.num_prompts, self.num_samples = num_prompts, num_samples
        self.rank, self.world_size, self.first_step = rank, world_size, first_step

    def __iter__(self) -> Iterator[tuple[Sequence[Prompt], Sequence[TaughtCompletion]]]:
        step = self.first_step
        while True:
            self.stream.position = step * self.num_prompts
            numbers = range(step * self.num_samples + self.rank, (step + 1) * self.num_samples, self.world_size)
            yield self.stream.take(self.num_prompts), [self.samples.sample(i) for i in numbers]
            step += 1


class TeacherData(TaskData):
    """The teacher's samples and prompts for the student's own, for `module=distill`.

    Args (beside those of `TaskData` and `TeacherSamples`):
        folder: of `r1lab.generate`; None where the student's own samples are all.
        batch_size: completions a step over all ranks. student_fraction: share of them that the student samples.

    Raises:
        ValueError: for settings that do not go together.
    """

    def __init__(
        self,
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        *,
        folder: str | None,
        batch_size: int,
        student_fraction: float,
        seed: int,
        validation_prompts: int,
        **samples: Any,
    ):
        super().__init__(task, validation_prompts=validation_prompts)
        self.num_prompts = round(student_fraction * batch_size)
        self.num_samples = batch_size - self.num_prompts
        mixed = 0 < student_fraction < 1
        if batch_size < 1 or (mixed and 0 in (self.num_prompts, self.num_samples)):
            raise ValueError(
                f"data.batch_size={batch_size} is too small for module.student_fraction={student_fraction}: raise it"
            )
        if folder is None and self.num_samples:
            raise ValueError(
                f"module.student_fraction={student_fraction} learns from samples of the teacher, too: set data.folder "
                "to a folder of python -m r1lab.generate, or module.student_fraction=1"
            )
        self.stream = PromptStream(task, seed=seed)
        self.samples = TeacherSamples(folder, tokenizer, seed=seed, **samples) if self.num_samples else None

    def train_dataloader(self) -> DataLoader:
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        if self.num_prompts % ranks or self.num_samples % ranks:
            raise ValueError(
                f"{self.num_prompts} prompts and {self.num_samples} samples of the teacher a step do not divide among "
                f"{ranks} ranks: change data.batch_size"
            )
        self.stream.rank, self.stream.world_size = rank, ranks
        sizes = {"num_prompts": self.num_prompts, "num_samples": self.num_samples}
        place = {"rank": rank, "world_size": ranks, "first_step": self.first_step}
        return DataLoader(TaughtBatches(self.stream, self.samples, **sizes, **place), batch_size=None)
