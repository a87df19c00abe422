import dataclasses
import datetime
import decimal
import json
import pickle

import pyarrow
import pyarrow.parquet
import pytest
import torch

from r1lab.task.dataset import Dataset
from r1lab.task.mixed import Mixed
from r1lab.task.template import Template


class Lengths:
    def encode(self, text, **_):
        return [0] * len(text)


def dataset(path=None, **files) -> Dataset:
    files = {split: str(file) for split, file in files.items()}
    return Dataset(Lengths(), Template("Q: {question}"), path and str(path), files, "mine", "en")


def lines(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


ROWS = [{"question": f"q{n}", "answer": n, "tests": [{"stdin": "1", "stdout": "2"}]} for n in range(100)]


def test_splits_by_hash_and_rows_in_rounds(tmp_path):
    task, again = (dataset(lines(tmp_path / "a.jsonl", ROWS)) for _ in range(2))
    assert task.splits == ("train", "validation", "heldout")
    sizes = [len(task.rows[split]) for split in task.splits]
    assert sum(sizes) == 100 and sizes[0] > 60 and min(sizes) > 2
    n = sizes[0]
    first, second = ([task.sample("train", i).text for i in range(k * n, (k + 1) * n)] for k in range(2))
    assert len(set(first)) == n and set(first) == set(second) and first != second
    assert [again.sample("train", i).text for i in reversed(range(n))] == first[::-1]
    with pytest.raises(ValueError, match="unknown split 'harder'; there are train, validation, heldout"):
        task.sample("harder", 0)


def test_fields_and_columns(tmp_path):
    rows = [{"question": "a", "answer": 7, "kind": "sum", "language": "zh", "difficulty": 3, "tests": [1], "x": None}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    task = dataset(train=tmp_path / "a.parquet", harder=lines(tmp_path / "b.jsonl", [{"question": "b", "answer": "8"}]))
    assert task.splits == ("train", "harder")
    prompt, other = task.sample("train", 5), task.sample("harder", 0)
    assert (prompt.text, len(prompt.ids), prompt.answer, prompt.index) == ("Q: a", 4, "7", 5)
    assert (prompt.kind, prompt.language, prompt.difficulty) == ("sum", "zh", 3)
    assert prompt.columns == {"question": "a", "tests": [1]}
    assert (other.kind, other.language, other.difficulty, other.columns) == ("mine", "en", 0, {"question": "b"})
    assert pickle.loads(pickle.dumps(task.is_correct))(prompt, " 7 ") and not task.is_correct(prompt, "8")


def test_a_file_of_a_split_goes_before_the_hash(tmp_path):
    own = lines(tmp_path / "own.jsonl", [{"question": "own", "answer": "1"}])
    task = dataset(lines(tmp_path / "a.jsonl", ROWS), heldout=own)
    assert [row["question"] for row in task.rows["heldout"]] == ["own"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("none.jsonl", None, "task.path=.*none.jsonl is no file"),
        ("a.csv", "question,answer", "must end in .jsonl or .parquet"),
        ("a.jsonl", '{"question": "a"}', "row 1 of task.path=.* has no answer; it has question"),
        ("a.jsonl", '\n{"text": "a"}', "row 1 .* has no question and no answer; it has text"),
        ("a.jsonl", '{"question": "a", "answer": "b"}\n{', "line 2 of .* is no JSON"),
        ("a.jsonl", "[1]", "no object with columns"),
        ("a.jsonl", '{"question": "a", "answer": "b", "difficulty": "x"}', "column difficulty, must be a whole number"),
        ("a.jsonl", '{"question": "a", "answer": "b"}', "the split .* has no row"),
        ("a.jsonl", '{"question": " ", "answer": ""}', "row 1 of .* has an empty question and an empty answer"),
        ("a.jsonl", b'{"question": "\xe9", "answer": "b"}', "is not in UTF-8, at byte 14: save it as UTF-8"),
        (
            "a.jsonl",
            '{"question": "a", "answer": "b"}\n{"question": "a", "answer": "c"}',
            "one question and two answers, 'b' and 'c': 'a'",
        ),
        ("a.parquet", "text", "cannot be read as Parquet"),
    ],
)
def test_files_that_are_none(tmp_path, name, content, told):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8-sig"))
    with pytest.raises(ValueError, match=told):
        dataset(tmp_path / name)


def test_wrong_settings(tmp_path):
    file = lines(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(ValueError, match="there is no split test"):
        dataset(file, test=file)
    with pytest.raises(ValueError, match="needs task.path"):
        dataset(heldout=file)
    with pytest.raises(ValueError, match="a question is in both train and harder"):
        dataset(train=file, harder=file)


def test_columns_are_plain_data_and_load_safely(tmp_path):
    day, price = datetime.date(2026, 1, 1), decimal.Decimal("0.50")
    rows = [{"question": [{"role": "user", "content": "a"}], "answer": 5.0, "day": day, "more": [{"price": price}]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    prompt = dataset(train=tmp_path / "a.parquet").sample("train", 0)
    assert (prompt.text, prompt.answer) == ("Q: a", "5")
    assert prompt.columns == {"question": "a", "day": "2026-01-01", "more": [{"price": 0.5}]}
    torch.save(dataclasses.asdict(prompt), tmp_path / "a.pt")
    assert torch.load(tmp_path / "a.pt", weights_only=True)["columns"] == prompt.columns


def test_nanoseconds_of_parquet_are_kept(tmp_path):
    table = pyarrow.table(
        {
            "question": ["a"],
            "answer": ["1"],
            "time": pyarrow.array([45296123456789], pyarrow.time64("ns")),
            "times": pyarrow.array([[45296123456789]], pyarrow.list_(pyarrow.time64("ns"))),
            "coarse": pyarrow.array([45296123456000], pyarrow.time64("ns")),
            "stamp": pyarrow.array([45296123456789], pyarrow.timestamp("ns")),
            "span": pyarrow.array([45296123456789], pyarrow.duration("ns")),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    columns = dataset(train=tmp_path / "a.parquet").sample("train", 0).columns
    assert columns == {
        "question": "a",
        "time": "12:34:56.123456789",
        "times": ["12:34:56.123456789"],
        "coarse": "12:34:56.123456",
        "stamp": "1970-01-01T12:34:56.123456789",
        "span": 45296.123456789,
    }
    long = pyarrow.array([9 * 10**18 + 7], pyarrow.duration("ns"))
    pyarrow.parquet.write_table(table.append_column("long", long), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"^row 1 of task.path=.*, column long, holds Timedelta.* write it as text"):
        dataset(tmp_path / "b.parquet")
    pyarrow.parquet.write_table(table.drop(["answer"]).rename_columns(
        ["question", "answer", "times", "coarse", "stamp", "span"]), tmp_path / "c.parquet")  # fmt: skip
    with pytest.raises(ValueError, match="column answer, must be text or a whole number, got datetime.time"):
        dataset(tmp_path / "c.parquet")


def test_wrong_values_are_rejected_with_row_and_column(tmp_path):
    rows = [{"question": "a", "answer": "1"}, {"question": "b", "answer": ["1"]}]
    file = lines(tmp_path / "a.jsonl", rows)
    with pytest.raises(
        ValueError, match=rf"^row 2 of task.path={file}, column answer, must be text .*\['1'\] \(list\)"
    ):
        dataset(file)
    file = lines(tmp_path / "b.jsonl", [{"question": "a", "answer": "1", "language": 3.5}])
    with pytest.raises(ValueError, match="^row 1 of task.files.train=.*, column language, must be text"):
        dataset(train=file)
    with pytest.raises(ValueError, match=r"^task.kind must be text or a whole number, got None"):
        Dataset(Lengths(), Template("Q: {question}"), str(file), None, None, "en")


def test_the_longest_questions(tmp_path):
    task = dataset(train=lines(tmp_path / "a.jsonl", [{"question": "q" * n, "answer": n} for n in (3, 9, 1, 7)]))
    assert [len(prompt.ids) for prompt in task.longest("train", 2)] == [3 + 9, 3 + 7]
    assert len(task.longest("train", 10)) == 4


def test_prompts_of_all_rows_without_ids(tmp_path):
    task = dataset(train=lines(tmp_path / "a.jsonl", [{"question": "q" * n, "answer": n} for n in (3, 9, 1, 7)]))
    assert task.unencoded("train", 10) == [dataclasses.replace(task.sample("train", i), ids=()) for i in range(4)]
    assert len(task.unencoded("train", 3)) == 3 and task.unencoded("heldout", 3) == []


def test_a_mix_has_the_rows_and_the_longest_questions_of_its_data_sets(tmp_path):
    own = dataset(train=lines(tmp_path / "a.jsonl", [{"question": "q" * n, "answer": n} for n in (3, 9)]))
    task = Mixed({"own": lambda: own, "endless": Endless}, {"own": 1, "endless": 1})
    for prompts in task.longest("train", 5), task.unencoded("train", 5):
        assert sorted(len(prompt.columns["question"]) for prompt in prompts) == [3, 9]
        assert {prompt.columns["part"] for prompt in prompts} == {"own"}


class Endless:
    splits, template = ("train",), "template"
