import pytest
import torch

from r1lab.strategy.fsdp2 import FSDP2
from r1lab.strategy.settings import dtype

SETTINGS = {
    "cpu_offload": False,
    "reference_on_cpu": False,
    "param_dtype": None,
    "reduce_dtype": None,
    "sampler": "whole",
    "checkpoint": "sharded",
    "in_turn": False,
    "seconds": 9,
}


def test_what_is_unknown_is_told():
    with pytest.raises(ValueError, match="strategy.sampler 'both' is not one of whole, layers"):
        FSDP2(**SETTINGS | {"sampler": "both"})
    with pytest.raises(ValueError, match="strategy.checkpoint 'none' is not one of sharded, whole"):
        FSDP2(**SETTINGS | {"checkpoint": "none"})
    with pytest.raises(ValueError, match="cannot be gone on from.*take strategy.checkpoint=sharded"):
        FSDP2(**SETTINGS | {"checkpoint": "whole", "cpu_offload": True})
    with pytest.raises(ValueError, match="are null or names such as bfloat16, got 'int8'"):
        FSDP2(**SETTINGS | {"reduce_dtype": "int8"})
    with pytest.raises(ValueError, match="are null or names such as bfloat16, got 'Linear'"):
        FSDP2(**SETTINGS | {"param_dtype": "Linear"})


def test_dtypes():
    assert dtype(None) is None and dtype("bfloat16") is torch.bfloat16
    made = FSDP2(**SETTINGS | {"reduce_dtype": "float32"})
    assert made.dtypes == {"param_dtype": None, "reduce_dtype": torch.float32}


def test_the_form_of_a_checkpoint():
    assert FSDP2(**SETTINGS).is_folder and not FSDP2(**SETTINGS | {"checkpoint": "whole"}).is_folder
