"""Questions of one's own, from files of JSON lines or Parquet, with whatever columns rewards ask for."""

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from r1lab.model.tokenizer import encode_prompt
from r1lab.task.arithmetic import split_of
from r1lab.task.columns import plain, question_of, text_of, whole_number
from r1lab.task.protocol import SPLITS
from r1lab.task.template import Template
from r1lab.types import Prompt

_FIELDS = ("answer", "kind", "language", "difficulty")
_READ = {"question": question_of, "answer": text_of, "kind": text_of, "language": text_of, "difficulty": whole_number}


class Dataset:
    """The rows of files: a split goes through its rows in an order of its own, again and again, never twice in a round.

    A row has `question` and `answer`, may have `kind`, `language` and `difficulty`, and keeps all else, as well as its
    question, as columns for rewards (`tests` for reward=code, `numbers` and `target` for reward=countdown). Questions
    and answers are text or whole numbers, a question may also be a chat of one user turn; columns become plain data,
    see `r1lab.task.columns`.
    `is_correct` is the same text; `task.checker` or a choice of `reward` is another.

    Args:
        tokenizer, template: from the question to the prompt's ids.
        path: a file whose rows belong to train, validation or heldout by a hash of the question: eight tenths, one and
            one.
        files: split -> a file of its own, in place of what `path` gives to that split. `harder` is there with one only.
        kind, language: of rows that do not say.

    Raises:
        ValueError: a file that is missing or of another form, a row without a question or an answer, a value of another
            type, an empty split, or a question in two splits.
    """

    name = "dataset"

    def __init__(
        self,
        tokenizer,
        template: Template,
        path: str | None,
        files: Mapping[str, str | None] | None,
        kind: str,
        language: str,
    ):
        files = files or {}
        if unknown := sorted(set(files) - set(SPLITS)):
            raise ValueError(f"task.files: there is no split {', '.join(unknown)}; there are {', '.join(SPLITS)}")
        files = {split: file for split, file in files.items() if file}
        if not path and "train" not in files:
            raise ValueError("task=dataset needs task.path, a file, or task.files.train, and more of task.files")
        self.tokenizer, self.template = tokenizer, template
        self.defaults = {"kind": text_of(kind, "task.kind"), "language": text_of(language, "task.language")}
        self.rows: dict[str, list[dict[str, Any]]] = {}
        if path:
            rows = _read(path, "task.path")
            self.rows = {s: [row for row in rows if split_of(row["question"]) == s] for s in SPLITS[:3]}
        self.rows |= {split: _read(file, f"task.files.{split}") for split, file in files.items()}
        self.rows = {split: self.rows[split] for split in SPLITS if split in self.rows}
        self.splits = tuple(self.rows)
        self._refuse_bad_splits()
        self._order = lru_cache(8)(self._make_order)

    def __getstate__(self):
        # A pickled one scores answers in a pool, which takes neither the tokenizer nor the rows.
        return vars(self) | {"tokenizer": None, "rows": {}, "_order": None}

    def sample(self, split: str, index: int) -> Prompt:
        if split not in self.rows:
            raise ValueError(f"unknown split {split!r}; there are {', '.join(self.splits)}")
        prompt = self._unencoded(split, index)
        return replace(prompt, ids=tuple(encode_prompt(self.tokenizer, prompt.text)))

    def unencoded(self, split: str, count: int) -> list[Prompt]:
        """The first `count` prompts of a split, each row once, without ids: to check many of them quickly."""
        return [self._unencoded(split, index) for index in range(min(count, len(self.rows.get(split, ()))))]

    def _unencoded(self, split: str, index: int) -> Prompt:
        round_, place = divmod(index, len(self.rows[split]))
        row = self.rows[split][self._order(split, round_)[place]]
        fields = self.defaults | {key: row[key] for key in _FIELDS if key in row}
        columns = {key: value for key, value in row.items() if key not in _FIELDS}
        return Prompt(ids=(), text=self.template(row["question"]), index=index, columns=columns, **fields)

    def longest(self, split: str, count: int) -> list[Prompt]:
        """The prompts of the `count` longest questions of a split, by characters."""
        order = self._order(split, 0)
        rows = [len(self.rows[split][row]["question"]) for row in order]
        places = sorted(range(len(rows)), key=lambda place: -rows[place])
        return [self.sample(split, place) for place in places[:count]]

    def is_correct(self, prompt: Prompt, answer: str) -> bool:
        return answer.strip() == prompt.answer.strip()

    def _make_order(self, split: str, round_: int) -> list[int]:
        order = list(range(len(self.rows[split])))
        random.Random(f"{self.name}/{split}/{round_}").shuffle(order)
        return order

    def _refuse_bad_splits(self) -> None:
        answers: dict[str, str] = {}
        for row in (row for rows in self.rows.values() for row in rows):
            if answers.setdefault(row["question"], row["answer"]) != row["answer"]:
                raise ValueError(
                    f"two rows of task=dataset have one question and two answers, {answers[row['question']][:40]!r} "
                    f"and {row['answer'][:40]!r}: {row['question'][:100]!r}"
                )
        seen: dict[str, str] = {}
        for split, rows in self.rows.items():
            if not rows:
                raise ValueError(
                    f"the split {split} of task=dataset has no row; give more of them, or task.files.{split}"
                )
            for question in {row["question"] for row in rows}:
                if question in seen:
                    raise ValueError(f"a question is in both {seen[question]} and {split}: {question[:100]!r}")
                seen[question] = split


def _read(path: str, setting: str) -> list[dict[str, Any]]:
    """The rows of a file, fields of `Prompt` in its types and all else as plain data; without what is null."""
    file, told = Path(path), f"{setting}={path}"
    if not file.is_file():
        raise ValueError(f"{told} is no file")
    if file.suffix == ".jsonl":
        rows = _json_lines(file, told)
    elif file.suffix == ".parquet":
        import pyarrow

        from r1lab.task.parquet import read_rows

        try:
            rows = read_rows(file, fields=_READ)
        except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:
            raise ValueError(f"{told} cannot be read as Parquet: {error}") from error
    else:
        raise ValueError(f"{told} must end in .jsonl or .parquet")
    return [_checked(row, f"row {number} of {told}") for number, row in enumerate(rows, 1)]


def _json_lines(file: Path, told: str) -> list[Any]:
    rows = []
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{told} is not in UTF-8, at byte {error.start}: save it as UTF-8") from error
    for number, line in enumerate(text.split("\n"), 1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number} of {told} is no JSON: {error}") from error
    return rows


def _checked(row: Any, told: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f"{told} is no object with columns, but {str(row)[:100]!r}")
    row = {key: value for key, value in row.items() if value is not None}
    if missing := [column for column in ("question", "answer") if column not in row]:
        raise ValueError(f"{told} has no {' and no '.join(missing)}; it has {', '.join(row) or 'nothing'}")
    row = {column: _READ.get(column, plain)(value, f"{told}, column {column},") for column, value in row.items()}
    if empty := [column for column in ("question", "answer") if not row[column].strip()]:
        raise ValueError(f"{told} has an empty {' and an empty '.join(empty)}")
    return {column: value for column, value in row.items() if value is not None}
