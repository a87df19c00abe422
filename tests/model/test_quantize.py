import copy

import pytest
import torch
from torch import nn

from r1lab.model import quantize as module
from r1lab.model.flops import forward_cost
from r1lab.model.memory import MIB, weights_mib
from r1lab.model.policy import load_policy, load_tokenizer, new_policy
from r1lab.model.quantize import (
    BLOCK,
    PRECISIONS,
    Quantized,
    QuantizedLinear,
    check_precision,
    dequantize,
    is_packed,
    quantize,
    quantized_weights,
    refuse_sharded,
)
from r1lab.model.reference import frozen_copy, refresh
from tests.model.test_flops import DENSE, MIXTURE

COMPLETION = 7  # logprobs of the prompt in `ids`
# Bits a weight, its share of a block's float32 scale included.
BITS = {"8bit": 8 + 32 / BLOCK, "nf4": 4 + 32 / BLOCK}


@pytest.fixture(scope="module")
def tiny():
    return load_policy("tiny", dtype="float32")


@pytest.fixture(scope="module")
def ids():
    text = "User: 7 + 5 * 3 Assistant: <think> 7 + 5 = 12 12 * 3 = 36 </think> <answer> 36 </answer>"
    return torch.tensor([load_tokenizer("tiny").encode(text)])


def logprobs(model, ids):
    """Of each token but the first, [1, T-1]."""
    return model(input_ids=ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", [(96, 64), (3, 40, 24), (5, 6)])
def test_a_weight_comes_back_within_half_a_step(precision, shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    quantized = Quantized(weight, precision)
    # The widest gap between levels, of a block whose largest value is 1: nf4's is from -1 to its next, -0.6962.
    step = {"8bit": 2 / 254, "nf4": 0.3038}[precision]
    blocks = nn.functional.pad(weight.flatten(), (0, -weight.numel() % BLOCK)).view(-1, BLOCK)
    bound = blocks.abs().amax(1, keepdim=True) * step / 2
    apart = nn.functional.pad((quantized() - weight).flatten(), (0, -weight.numel() % BLOCK)).view(-1, BLOCK)
    assert (apart.abs() <= bound * 1.01).all() and apart.abs().max() > 0
    assert quantized(torch.bfloat16).dtype == torch.bfloat16 and quantized().shape == shape


def test_a_quantised_model_says_about_the_same(tiny, ids):
    apart = {}
    with torch.no_grad():
        whole = logprobs(tiny, ids)[:, COMPLETION:]
        for precision in PRECISIONS:
            small = logprobs(frozen_copy(tiny, precision), ids)[:, COMPLETION:]
            apart[precision] = (whole - small).abs().mean().item()
    # nf4's error in a weight is about 15 times 8bit's: 0.092 of a standard deviation, and 0.006.
    assert 0 < 4 * apart["8bit"] < apart["nf4"]
    assert apart["8bit"] < 0.04 and apart["nf4"] < 0.4  # nats


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("experts", ["eager", "grouped_mm", "batched_mm"])
def test_it_computes_with_the_weights_as_they_come_back(tiny, ids, precision, experts):
    quantized = frozen_copy(tiny, precision)
    quantized.set_experts_implementation(experts)
    plain = dequantize(copy.deepcopy(quantized))
    assert plain.state_dict().keys() == tiny.state_dict().keys() and not quantized_weights(plain)
    with torch.no_grad():
        assert torch.allclose(logprobs(quantized, ids), logprobs(plain, ids), atol=1e-5)
    # Embeddings, head, norms and router are those of the model.
    kept = {name: w for name, w in quantized.state_dict().items() if not is_packed(name)}
    assert {"model.embed_tokens.weight", "lm_head.weight", "model.layers.1.mlp.gate.weight"} <= kept.keys()
    assert all(torch.equal(w, tiny.state_dict()[name]) for name, w in kept.items())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_holds_so_many_bits_a_weight(tiny, precision):
    quantized = frozen_copy(tiny, precision)
    sizes = [weight.shape.numel() for weight in quantized_weights(quantized).values()]
    experts = [name for name in quantized_weights(quantized) if ".experts." in name]
    assert [name.rpartition(".")[2] for name in experts] == ["gate_up_proj", "down_proj"]
    saved = sum(sizes) * (32 - BITS[precision]) / 8 / MIB
    assert weights_mib(tiny) - weights_mib(quantized) == pytest.approx(saved, rel=1e-3)
    assert sum(sizes) > 0.98 * sum(p.numel() for p in tiny.parameters() if p is not tiny.get_output_embeddings().weight)


@pytest.mark.parametrize("config", [DENSE, MIXTURE])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_its_passes_cost_what_the_models_do(config, precision):
    model = new_policy(config, seed=0)
    assert forward_cost(frozen_copy(model, precision)) == forward_cost(model)._replace(trained=0.0)
    assert forward_cost(model).trained == 1.0


@pytest.mark.parametrize("precision", PRECISIONS)
def test_gradients_pass_through_and_are_those_of_the_plain_weights(tiny, ids, precision):
    quantized = frozen_copy(tiny, precision)
    gradients = []
    for model in (quantized, dequantize(copy.deepcopy(quantized))):
        embedded = model.get_input_embeddings()(ids).requires_grad_()
        model(inputs_embeds=embedded).logits.square().mean().backward()
        gradients.append(embedded.grad)
    assert gradients[1].abs().max() > 0
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-6)
    # Weights of the experts are there in their own passes alone.
    assert not hasattr(quantized.model.layers[1].mlp.experts, "gate_up_proj")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_casts_and_autocast_change_what_is_computed_in_and_not_what_is_held(tiny, ids, precision):
    quantized = frozen_copy(tiny, precision)
    held = {name: value.clone() for name, value in quantized.state_dict().items() if is_packed(name)}
    with torch.no_grad():
        whole = logprobs(quantized, ids)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            linear = quantized.model.layers[0].self_attn.q_proj
            assert linear(torch.ones(1, linear.in_features)).dtype == torch.bfloat16
        quantized.to(torch.bfloat16)
        narrow = logprobs(quantized, ids)
    assert narrow.dtype == torch.bfloat16 and (narrow - whole).abs().mean() < 0.1
    assert all(torch.equal(value, quantized.state_dict()[name]) for name, value in held.items())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_state_dict_is_loaded_exactly_by_another(tiny, ids, precision, tmp_path):
    quantized = frozen_copy(tiny, precision)
    torch.save(quantized.state_dict(), tmp_path / "weights")
    other = new_policy(tiny.config.to_dict() | {"model_type": "deepseek_v3"}, seed=1)
    other = quantize(other.eval(), precision)
    other.load_state_dict(torch.load(tmp_path / "weights", weights_only=True))
    with torch.no_grad():
        assert torch.equal(logprobs(quantized, ids), logprobs(other, ids))


def test_a_linear_layer_keeps_its_bias():
    linear = nn.Linear(64, 8)
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    quantized = QuantizedLinear(linear, "8bit")
    assert torch.allclose(quantized(x), nn.functional.linear(x, quantized.weight, linear.bias), atol=1e-6)
    assert not torch.equal(quantized.weight, linear.weight)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_hard_copy_is_quantised_anew(tiny, precision):
    policy = copy.deepcopy(tiny)
    reference = frozen_copy(policy, precision)
    with torch.no_grad():
        for p in policy.parameters():
            p.mul_(1.25)
        policy.model.layers[1].mlp.gate.e_score_correction_bias.add_(1)
    assert not refresh(reference, policy, step=1, every=2, decay=0.0)
    assert refresh(reference, policy, step=2, every=2, decay=0.0)
    expected = frozen_copy(policy, precision).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in reference.state_dict().items())


def test_what_cannot_be_is_told_in_a_line(tiny, monkeypatch):
    with pytest.raises(ValueError, match="module.teacher.quantize=4bit must be 8bit, nf4, or null for none"):
        check_precision("4bit", "module.teacher.quantize")
    assert quantize(tiny, None) is tiny and not quantized_weights(tiny)
    refuse_sharded([], "fsdp2")
    with pytest.raises(ValueError, match="strategy=fsdp2 shards.*leave out optimizer=adamw_8bit, or take strategy=ddp"):
        refuse_sharded(["optimizer=adamw_8bit"], "fsdp2")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"reference.quantize=nf4 needs .* pip install 'r1lab\[quantized\]'"):
        check_precision("nf4", "reference.quantize")
