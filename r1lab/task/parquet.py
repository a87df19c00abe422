"""Rows of a Parquet file, with times of day in nanoseconds kept whole."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def read_rows(file: Path, fields: Collection[str] = ()) -> list[dict[str, Any]]:
    """The rows of a file.

    Python's times of day end at microseconds, and pyarrow cuts off the rest silently. A column that holds nanoseconds
    becomes text with nine decimals, such as 12:34:56.123456789; `fields` name columns that stay as they are.

    Raises:
        OSError, ValueError, OverflowError, pyarrow.ArrowException: the file is no Parquet, or holds dates beyond the
            years that Python has.
    """
    table = pq.read_table(file)
    for place, name in enumerate(table.column_names):
        if name not in fields:
            table = table.set_column(place, name, _whole_times(table.column(place)))
    return table.to_pylist()


def _whole_times(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = _with_times_as(pa.time64("us"), column.type)
    if kind == column.type:
        return column
    try:
        return column.cast(kind)
    except pa.ArrowInvalid:  # it would lose digits
        return column.cast(_with_times_as(pa.string(), column.type))


def _with_times_as(time: pa.DataType, kind: pa.DataType) -> pa.DataType:
    """A type with `time` for each time64[ns] in it."""
    if kind == pa.time64("ns"):
        return time
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_with_times_as(time, field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_with_times_as(time, kind.key_type), _with_times_as(time, kind.item_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_with_times_as(time, kind.value_type)), kind.list_size)
    for is_kind, make in ((pa.types.is_list, pa.list_), (pa.types.is_large_list, pa.large_list)):
        if is_kind(kind):
            return make(kind.value_field.with_type(_with_times_as(time, kind.value_type)))
    return kind
