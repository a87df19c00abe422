import pytest
import torch

from r1lab.strategy.fsdp2 import FSDP2

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
    with pytest.raises(ValueError, match="strategy.reduce_dtype=int8 is no dtype of weights"):
        FSDP2(**SETTINGS | {"reduce_dtype": "int8"})
    with pytest.raises(ValueError, match="strategy.param_dtype=Linear is no dtype of weights"):
        FSDP2(**SETTINGS | {"param_dtype": "Linear"})


def test_dtypes():
    made = FSDP2(**SETTINGS | {"reduce_dtype": "float32"})
    assert made.dtypes == {"param_dtype": None, "reduce_dtype": torch.float32}
    assert FSDP2(**SETTINGS | {"param_dtype": "bfloat16"}).dtypes["param_dtype"] is torch.bfloat16


def test_the_form_of_a_checkpoint():
    assert FSDP2(**SETTINGS).is_folder and not FSDP2(**SETTINGS | {"checkpoint": "whole"}).is_folder
