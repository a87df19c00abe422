import copy

import pytest
import torch

from r1lab.model import adapter
from r1lab.model.adapter import adapter_settings, adapters_off, merged, with_adapters
from r1lab.model.flops import forward_cost
from r1lab.model.memory import MIB, memory_mib, trainable, weights_mib
from r1lab.model.policy import load_policy, pack_model, rebuild
from r1lab.model.quantize import dequantize
from r1lab.model.reference import frozen_copy

SETTINGS = {"rank": 4, "alpha": 8, "targets": "all-linear", "quantize": None, "seed": 0}
BASES = (None, "8bit", "nf4")
IDS = torch.arange(5, 45).view(2, 20)


@pytest.fixture(scope="module")
def tiny():
    return load_policy("tiny", dtype="float32")


def lora(model, **settings):
    return with_adapters(copy.deepcopy(model), **SETTINGS | settings)


def move(model, by=0.05):
    """Set the adapters to something that they do not start from."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in trainable(model):
            p.add_(by * torch.randn(p.shape, generator=generator))


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS).logits


@pytest.mark.parametrize("base", BASES)
def test_with_its_adapters_off_it_is_the_base(tiny, base):
    model, expected = lora(tiny, quantize=base), logits(frozen_copy(tiny, base))
    assert torch.equal(logits(model), expected)  # B is zero
    move(model)
    assert (logits(model) - expected).abs().max() > 0.1
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    with adapters_off(model):
        assert torch.equal(logits(model), expected)
        # FSDP2 looks at its first pass, which may be this one, which parameters are trained.
        assert [name for name, p in model.named_parameters() if p.requires_grad] == trained
    assert (logits(model) - expected).abs().max() > 0.1
    assert [name for name, p in model.named_parameters() if p.requires_grad] == trained


@pytest.mark.parametrize("base", BASES)
def test_only_adapters_change(tiny, base):
    model = lora(tiny, quantize=base)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(trainable(model), lr=0.01)
    for _ in range(2):
        model(input_ids=IDS).logits.square().mean().backward()
        optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if ".lora_" in name}
    held = memory_mib(optimizer, policy=model, reference=None, value=None)
    size = sum(p.nbytes for p in trainable(model)) / MIB
    assert held["gradients"] == size and held["optimizer"] == pytest.approx(2 * size, rel=0.01)


def test_adapters_sit_on_the_linear_layers_and_nowhere_else(tiny):
    model = lora(tiny)
    adapted = {name.split(".lora_A")[0] for name in model.state_dict() if ".lora_A" in name}
    attention = {"q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"}
    mlp = {"gate_proj", "up_proj", "down_proj"}
    expected = {f"model.layers.{i}.self_attn.{name}" for i in (0, 1) for name in attention}
    expected |= {f"model.layers.0.mlp.{name}" for name in mlp}
    expected |= {f"model.layers.1.mlp.shared_experts.{name}" for name in mlp}
    assert adapted == expected
    # Rank 4 of x [H] -> [N]: 4 H + 4 N.
    some = lora(tiny, targets=["o_proj"])
    (first, _) = (layer.self_attn.o_proj for layer in tiny.model.layers)
    assert sum(p.numel() for p in trainable(some)) == 2 * 4 * (first.in_features + first.out_features)


def test_adapters_are_float32_and_the_same_for_a_seed(tiny):
    narrow = lora(copy.deepcopy(tiny).bfloat16(), quantize="nf4")
    assert {p.dtype for p in trainable(narrow)} == {torch.float32}
    assert logits(narrow).dtype == torch.bfloat16
    first, same, other = (lora(tiny, seed=seed).state_dict() for seed in (1, 1, 2))
    names = [name for name in first if ".lora_A" in name]
    assert all(torch.equal(first[name], same[name]) for name in names)
    assert not any(torch.equal(first[name], other[name]) for name in names)


@pytest.mark.parametrize("base", BASES)
def test_a_state_dict_gives_a_plain_model_with_the_adapters_merged(tiny, base):
    model = lora(tiny, quantize=base)
    move(model)
    plain = rebuild(pack_model(model), model.state_dict())
    assert plain.state_dict().keys() == tiny.state_dict().keys() and adapter_settings(plain) is None
    assert all(p.requires_grad and p.dtype == torch.float32 for p in plain.parameters())
    assert torch.allclose(logits(plain), logits(model), atol=1e-3)
    # W + (alpha / rank) B A
    name = "model.layers.0.self_attn.q_proj"
    a, b = (model.state_dict()[f"{name}.lora_{x}.default.weight"] for x in "AB")
    start = dequantize(frozen_copy(tiny, base)).get_parameter(f"{name}.weight")
    assert torch.allclose(plain.get_parameter(f"{name}.weight"), start + 8 / 4 * b @ a, atol=1e-6)


def test_what_adapters_add_to_bfloat16_weights_outlives_the_merge(tiny):
    model = lora(copy.deepcopy(tiny).bfloat16())
    move(model, by=1e-4)  # added to W, less than half of the spacing of most of its bfloat16 elements
    plain = rebuild(pack_model(model), model.state_dict())
    name = "model.layers.0.self_attn.q_proj"
    a, b = (model.state_dict()[f"{name}.lora_{x}.default.weight"] for x in "AB")
    start = model.get_submodule(name).get_base_layer().weight.float()
    assert plain.dtype == torch.float32
    torch.testing.assert_close(plain.get_parameter(f"{name}.weight") - start, 8 / 4 * b @ a, rtol=0.01, atol=1e-7)


def test_merging_is_in_place_and_leaves_nothing_behind(tiny):
    model = lora(tiny, quantize="nf4")
    assert weights_mib(model) < 0.3 * weights_mib(tiny)
    assert merged(model) is model and weights_mib(model) == weights_mib(tiny)


def test_a_pass_costs_the_base_and_the_adapters(tiny):
    cost, base = forward_cost(lora(tiny, quantize="nf4")), forward_cost(tiny)
    adapters = 2.0 * sum(p.numel() for p in trainable(lora(tiny)))
    assert cost.token == base.token + adapters and cost.trained == pytest.approx(adapters / cost.token)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"rank": 0}, "adapter.rank must be at least 1, or null"),
        ({"alpha": 0}, "adapter.alpha must be above 0"),
        ({"targets": "q_proj"}, "adapter.targets=q_proj must be all-linear, or a list"),
        ({"targets": ["w_proj"]}, "there is no linear layer w_proj; the model has down_proj, gate_proj"),
        ({"quantize": "int4"}, "adapter.quantize=int4 must be 8bit, nf4, or null"),
        ({"rank": None, "quantize": "nf4"}, "adapter.quantize=nf4 is for a frozen base.*take adapter=qlora"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(tiny, settings, message):
    with pytest.raises(ValueError, match=message) as raised:
        lora(tiny, **settings)
    assert "\n" not in str(raised.value)


def test_without_peft(tiny, monkeypatch):
    monkeypatch.setattr(adapter, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs the package peft: pip install 'r1lab\[quantized\]'"):
        lora(tiny)


def test_layers_go_on_to_keep_their_input_alone():
    model = load_policy("tiny", dtype="float32", activation_checkpointing=True)
    with_adapters(model, rank=2, alpha=4, targets="all-linear", quantize=None, seed=1)
    assert [layer.training for layer in model.model.layers] == [True, True]
    assert not model.training
