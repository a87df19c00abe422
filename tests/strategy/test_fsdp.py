import pytest

from r1lab.strategy.fsdp import FSDP
from tests.strategy.test_fsdp2 import SETTINGS


def test_an_offloaded_policy_is_refused():
    assert FSDP(**SETTINGS | {"reference_on_cpu": True}).reference_on_cpu
    with pytest.raises(ValueError, match="last microbatch alone: take strategy=fsdp2"):
        FSDP(**SETTINGS | {"cpu_offload": True})
