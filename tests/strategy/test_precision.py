import pytest
import torch
from torch import nn

from r1lab.strategy.fsdp import FSDP
from r1lab.strategy.precision import HalfPrecisionAsIs, precision_plugin
from r1lab.types import Prompt
from tests.strategy.test_fsdp2 import SETTINGS


@pytest.mark.parametrize("precision", ["32-true", "bf16-true", "bf16-mixed", 32])
def test_batches_stay_as_they_are(precision):
    batch = [Prompt((1, 2), "text", "answer")], torch.tensor([1.5])
    for strategy in ("auto", FSDP(**SETTINGS)):
        plugin = precision_plugin(precision, strategy)
        if plugin is not None:
            assert plugin.convert_input(batch) is batch
            with plugin.train_step_context():
                assert torch.zeros(1).dtype == torch.float32


def test_where_lightnings_own_will_do():
    assert precision_plugin("32-true", "auto") is None and precision_plugin("bf16-mixed", "auto") is None


def test_adapters_stay_in_float32_on_a_base_in_half_precision():
    base = nn.Linear(4, 4).requires_grad_(False)
    base.adapter_settings = {}
    module = nn.ModuleDict({"policy": nn.Sequential(base, nn.Linear(4, 2))})
    plain = nn.Linear(4, 2)
    plugin = HalfPrecisionAsIs("bf16-true")
    plugin.convert_module(module), plugin.convert_module(plain)
    assert {p.dtype for p in module.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in module.parameters() if not p.requires_grad} == {torch.bfloat16} == {plain.weight.dtype}
