import pytest
from lightning.pytorch.strategies import DDPStrategy

from r1lab.strategy.plain import ddp, single


def test_single_is_one_process():
    assert single(devices=1, num_nodes=1) == single(devices="auto", num_nodes=1) == "auto"
    for places in ({"devices": 2, "num_nodes": 1}, {"devices": [0, 1], "num_nodes": 1}, {"devices": 1, "num_nodes": 2}):
        with pytest.raises(ValueError, match="take strategy=ddp, or fsdp2"):
            single(**places)


def test_ddp():
    assert isinstance(ddp(devices=2, num_nodes=1), DDPStrategy)
