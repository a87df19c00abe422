import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig

from r1lab.model.fake import FakeModel, layer_list, meta_model

V3 = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "moe_intermediate_size": 16, "num_hidden_layers": 7,
    "first_k_dense_replace": 3, "num_attention_heads": 2, "num_key_value_heads": 2, "q_lora_rank": None,
    "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 16, "n_routed_experts": 4,
    "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture
def whole():
    return meta_model(AutoConfig.for_model("deepseek_v3", **V3), torch.float32)


def test_two_layers_of_each_kind_are_left_and_the_others_are_known(whole):
    fake = FakeModel.of(whole, FakeTensorMode())
    assert fake.extra == [0, 1, 0, 2]  # of 3 dense and 4 sparse layers
    assert len(layer_list(whole)) == 7  # the whole is left alone
    assert [layer.self_attn.layer_idx for layer in fake.layers] == [0, 1, 2, 3]


def test_tied_weights_stay_tied_and_nothing_is_on_the_meta_device(whole):
    model = FakeModel.of(whole, FakeTensorMode()).model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert {x.device.type for x in (*model.parameters(), *model.buffers())} == {"cpu"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_computes_forward_and_backward(whole, dtype):
    mode = FakeTensorMode()
    model = FakeModel.of(meta_model(whole.config, dtype), mode).model
    with mode:
        hidden = model.base_model(input_ids=torch.zeros(3, 8, dtype=torch.int64), use_cache=False).last_hidden_state
        assert hidden.shape == (3, 8, 32) and hidden.dtype == dtype
        hidden.float().sum().backward()
    experts = model.base_model.layers[-1].mlp.experts
    assert experts.gate_up_proj.grad.shape == experts.gate_up_proj.shape
