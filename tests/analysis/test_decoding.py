import pytest

from r1lab.analysis.decoding import decoding, title
from r1lab.analysis.effects import measures
from r1lab.analysis.sweep import load_sweep

T_1 = {"evaluation.temperature": 1.0, "evaluation.top_p": 1.0, "evaluation.top_k": 0}


@pytest.mark.parametrize(
    ("record", "name"),
    [
        ({"config": T_1}, "T 1"),
        ({"config": T_1 | {"evaluation.temperature": 0.6, "evaluation.top_p": 0.95}}, "T 0.6, top-p 0.95"),
        ({"config": T_1 | {"evaluation.top_k": 20}}, "T 1, top-k 20"),
        ({"config": T_1, "params": {"evaluation.temperature": {}}}, ""),  # each point has its own
        ({"config": {}}, ""),
        ({}, ""),  # studies made before their settings were noted
    ],
)
def test_a_decoding_is_named_where_the_record_holds_it(record, name):
    assert decoding(record) == name


def test_headings_name_the_split_and_the_decoding():
    record = {"config": T_1}
    columns = ["validation/pass_at_1", "after/heldout/pass_at_16", "last/validation/pass_at_1", "after/heldout/greedy"]
    assert [title(record, column) for column in columns] == [
        "validation pass@1, T 1", "held-out pass@16, T 1", "validation pass@1, T 1", "held-out greedy",
    ]  # fmt: skip
    assert title(record, "validation/max_violation") == "validation/max_violation"
    assert title({}, "validation/pass_at_1") == "validation/pass_at_1"


def test_measures_name_it_too(write_sweep, tmp_path):
    writer = write_sweep(tmp_path / "named", {"a": [1]}, config=T_1)
    writer.trial({"a": 1}, {1: 0.5})
    assert "held-out pass@1, T 1" in measures(load_sweep(writer.folder))


def test_an_objective_is_no_measure_beside_itself(write_sweep, tmp_path):
    writer = write_sweep(tmp_path / "heldout", {"a": [1]}, config=T_1, objectives=["heldout/pass_at_1"])
    writer.trial({"a": 1}, {1: 0.5})
    assert "held-out pass@1, T 1" not in measures(load_sweep(writer.folder))
