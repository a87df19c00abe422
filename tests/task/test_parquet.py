import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r1lab.task.parquet import read_rows

NANO = pa.time64("ns")
NESTED = [
    (NANO, 1, "00:00:00.000000001"),
    (pa.list_(NANO), [1], ["00:00:00.000000001"]),
    (pa.large_list(NANO), [1], ["00:00:00.000000001"]),
    (pa.list_(NANO, 1), [1], ["00:00:00.000000001"]),
    (pa.map_(pa.string(), NANO), [("k", 1)], [("k", "00:00:00.000000001")]),
    (pa.struct([("a", NANO), ("b", pa.int8())]), {"a": 1, "b": 2}, {"a": "00:00:00.000000001", "b": 2}),
    (pa.list_(pa.struct([("a", NANO)])), [{"a": 1}], [{"a": "00:00:00.000000001"}]),
]


@pytest.mark.parametrize(("kind", "value", "expected"), NESTED, ids=[str(kind) for kind, *_ in NESTED])
def test_nanoseconds_become_text_wherever_they_are(tmp_path, kind, value, expected):
    pq.write_table(pa.table({"x": pa.array([value, None], kind), "y": [1, 2]}), tmp_path / "a.parquet")
    assert read_rows(tmp_path / "a.parquet") == [{"x": expected, "y": 1}, {"x": None, "y": 2}]


def test_whole_microseconds_stay_times(tmp_path):
    pq.write_table(pa.table({"x": pa.array([1000, None], NANO)}), tmp_path / "a.parquet")
    assert read_rows(tmp_path / "a.parquet") == [{"x": datetime.time(microsecond=1)}, {"x": None}]
