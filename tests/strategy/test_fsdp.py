import pytest

from r1lab.strategy.fsdp import FSDP
from tests.strategy.test_fsdp2 import SETTINGS


def test_an_offloaded_policy_is_refused():
    assert FSDP(**SETTINGS | {"reference_on_cpu": True}).reference_on_cpu
    with pytest.raises(ValueError, match="last microbatch alone: take strategy=fsdp2"):
        FSDP(**SETTINGS | {"cpu_offload": True})


def test_a_cpu_is_refused(monkeypatch):
    strategy = FSDP(**SETTINGS)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    strategy.refuse_cpu("gpu")
    for accelerator, here in (("cpu", True), ("auto", False)):
        monkeypatch.setattr("torch.cuda.is_available", lambda here=here: here)
        with pytest.raises(ValueError, match="strategy=fsdp needs GPUs, .* take strategy=fsdp2"):
            strategy.refuse_cpu(accelerator)
