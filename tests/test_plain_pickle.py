import datetime
from collections import OrderedDict, defaultdict
from decimal import Decimal

import numpy as np
import pytest
import torch

from r1lab.plain_pickle import is_plain, refuse_unsafe, unsafe_part, unsafe_types, verify

SAFE = {"a": [1, 2.5, None, True, "x", b"y", (torch.ones(1),), {3}], "b": OrderedDict(c={"d": 2**70})}


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (SAFE, None),
        ({"a": [1, {"b": np.float64(1)}]}, r"x.a[1].b (numpy.float64)"),
        ({"a": [Decimal(1)]}, "x.a[0] (decimal.Decimal)"),
        ({"a": (1, 10**700)}, "x.a[1] (builtins.int)"),
        ({"a": defaultdict(list)}, "x.a (collections.defaultdict)"),
        ({datetime.date(2026, 1, 1): 1}, "a key of x (datetime.date)"),
    ],
)
def test_the_part_that_does_not_load_is_named(value, part, tmp_path):
    assert unsafe_part(value, "x") == part
    torch.save(value, tmp_path / "a.pt")
    if part is None:
        refuse_unsafe(value, "x", "change it")
        verify(tmp_path / "a.pt", value)
        return
    with pytest.raises(ValueError) as refused:
        refuse_unsafe(value, "x", "change it")
    assert str(refused.value).startswith(f"{part} cannot be stored") and str(refused.value).endswith(": change it")
    with pytest.raises(ValueError) as refused:
        verify(tmp_path / "a.pt", value)
    assert part.replace("x", "checkpoint", 1) in str(refused.value).replace("of x", "of checkpoint")


def test_plain_data_is_not_pickled(monkeypatch):
    monkeypatch.setattr(torch, "save", None)
    refuse_unsafe(
        [{"ids": (1, 2), "text": "x", "columns": {"a": [1.5, None, True, [], {}, {1: -(2**63) + 1}]}}], "x", ""
    )
    for value in ((1, 2**64), [{"a": Decimal(1)}], OrderedDict(), (str,), {(1, np.int64(1)): 1}):
        assert not is_plain(value)


def test_types_of_a_file(tmp_path):
    torch.save({"a": Decimal(1), "b": datetime.date(2026, 1, 1)}, tmp_path / "a.pt")
    assert unsafe_types(tmp_path / "a.pt") == ["datetime.date", "decimal.Decimal"]
    (tmp_path / "half.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:200])
    torch.save(SAFE, tmp_path / "safe.pt")
    assert unsafe_types(tmp_path / "half.pt") == unsafe_types(tmp_path / "safe.pt") == []
