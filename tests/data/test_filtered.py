from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r1lab.data.filtered import FilteredDocuments


@pytest.fixture
def source(tmp_path):
    """source(name, count, weight): a file of so many documents, and its entry."""

    def write(name, count, weight=1):
        path = tmp_path / f"{name}.parquet"
        rows = [{"prompt": f"{name}{i}", "completion": f"c{i}", "length": i} for i in range(count)]
        pq.write_table(pa.Table.from_pylist(rows, pa.schema({"prompt": "string", "completion": "string"})), path)
        return {name: {"path": str(path), "weight": weight}}

    return write


def taken(documents, numbers):
    return [documents.document(i) for i in numbers]


def test_each_epoch_has_every_document_once_in_an_order_of_its_own(source):
    documents = FilteredDocuments(source("a", 10), seed=1)
    epochs = [taken(documents, range(10 * epoch, 10 * epoch + 10)) for epoch in range(3)]
    assert all(sorted(epoch) == sorted(epochs[0]) and len(set(epoch)) == 10 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert len(documents) == 10


def test_a_document_follows_from_seed_and_number(source):
    entry = source("a", 10)
    first = taken(FilteredDocuments(entry, seed=1), range(40))
    assert [FilteredDocuments(entry, seed=1).document(i) for i in reversed(range(40))] == first[::-1]
    assert taken(FilteredDocuments(entry, seed=2), range(40)) != first


def test_sources_are_mixed_by_weight_and_each_in_epochs(source):
    documents = FilteredDocuments(source("r", 30, 3) | source("g", 10, 1), seed=1)
    assert len(documents) == 40
    for start in range(0, 80, 4):  # every row of four
        names = Counter(prompt[0] for prompt, _ in taken(documents, range(start, start + 4)))
        assert names == {"r": 3, "g": 1}
    assert len(set(taken(documents, range(40)))) == 40
    # 20 general documents last for 60 reasoning ones, of which there are 30: until each was seen once.
    assert len(FilteredDocuments(source("r", 30, 3) | source("g", 20, 1), seed=1)) == 80


def test_what_cannot_be_mixed(source):
    with pytest.raises(ValueError, match="names no source"):
        FilteredDocuments({}, seed=1)
    with pytest.raises(ValueError, match="a.parquet holds no documents"):
        FilteredDocuments(source("a", 0), seed=1)
    with pytest.raises(ValueError, match="sources.a.weight must be a whole number from 1, got 0"):
        FilteredDocuments(source("a", 3, 0), seed=1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "a", "text": "b"}], "a.parquet has no column completion; it has prompt, text"),
        ([{"prompt": "a", "completion": "b"}, {"prompt": "", "completion": "c"}], "row 2 .* column prompt, is empty"),
        ([{"prompt": "a", "completion": None}], "row 1 .*, column completion, must be text .*, got None"),
        ([{"prompt": [{"role": "user"}], "completion": "b"}], "row 1 .*, column prompt, must be text"),
    ],
)
def test_documents_must_be_text(tmp_path, rows, message):
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=message):
        FilteredDocuments({"a": {"path": str(tmp_path / "a.parquet"), "weight": 1}}, seed=1)
