from contextlib import nullcontext
from typing import get_args

import pytest
import torch
from lightning.fabric.plugins.precision.precision import (
    _PRECISION_INPUT_INT,
    _PRECISION_INPUT_STR,
    _PRECISION_INPUT_STR_ALIAS,
)
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from r1lab.strategy.fsdp import FSDP
from r1lab.strategy.precision import HalfPrecisionAsIs, precision_plugin, standard_precision
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


@pytest.mark.parametrize(
    "given, expected",
    [(None, "32-true"), (32, "32-true"), ("32", "32-true"), (64, "64-true"), ("64", "64-true"), ("bf16", "bf16-mixed")]
    + [(name, name) for name in ("32-true", "64-true", "bf16-mixed", "bf16-true")],
)
def test_aliases_mean_what_lightning_means_by_them(given, expected):
    assert standard_precision(given) == expected


@pytest.mark.parametrize("given", [16, "16", "16-mixed", "16-true", "transformer-engine", "transformer-engine-float16"])
def test_float16_and_transformer_engine_are_rejected_under_each_name(given):
    with pytest.raises(ValueError, match=f"trainer.precision={given} .*take bf16-mixed"):
        standard_precision(given)


def test_every_precision_of_lightning_is_decided():
    for given in (
        *get_args(_PRECISION_INPUT_INT),
        *get_args(_PRECISION_INPUT_STR),
        *get_args(_PRECISION_INPUT_STR_ALIAS),
    ):
        decided = str(given).startswith(("16", "transformer-engine"))
        with pytest.raises(ValueError, match="trainer.precision") if decided else nullcontext():
            standard_precision(given)


def test_16_bits_keep_rotary_frequencies_and_a_moving_average():
    config = AutoConfig.for_model("llama", hidden_size=32, num_attention_heads=2, num_hidden_layers=1, vocab_size=50)
    policy = AutoModelForCausalLM.from_config(config)
    module = nn.ModuleDict({"policy": policy})
    module.register_buffer("score_moments", torch.tensor([0.1, 1.2]))
    exact = policy.model.rotary_emb.inv_freq.clone()
    HalfPrecisionAsIs("bf16-true").convert_module(module)
    assert policy.dtype == torch.bfloat16 and {p.dtype for p in module.parameters()} == {torch.bfloat16}
    assert torch.equal(policy.model.rotary_emb.inv_freq, exact) and module.score_moments.dtype == torch.float32
    strategy = FSDP(**SETTINGS)
    strategy._precision_plugin = precision_plugin("bf16-mixed", strategy)
    assert strategy.mixed_precision_config.param_dtype == torch.bfloat16
    assert strategy.mixed_precision_config.buffer_dtype is None


def test_fsdp_keeps_a_base_with_adapters_in_float32():
    module = nn.ModuleDict({"policy": nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 2))})
    module["policy"].adapter_settings = {}
    precision_plugin("bf16-true", FSDP(**SETTINGS)).convert_module(module)
    assert {p.dtype for p in module.parameters()} == {torch.float32}


def test_adapters_stay_in_float32_on_a_base_in_half_precision():
    base = nn.Linear(4, 4).requires_grad_(False)
    base.adapter_settings = {}
    module = nn.ModuleDict({"policy": nn.Sequential(base, nn.Linear(4, 2))})
    plain = nn.Linear(4, 2)
    plugin = HalfPrecisionAsIs("bf16-true")
    plugin.convert_module(module), plugin.convert_module(plain)
    assert {p.dtype for p in module.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in module.parameters() if not p.requires_grad} == {torch.bfloat16} == {plain.weight.dtype}
