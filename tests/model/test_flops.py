import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from r1lab.model.flops import forward_cost
from r1lab.model.mtp import MultiTokenPrediction
from r1lab.model.policy import new_policy
from tests.architectures import tiny_model

DENSE = {
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
MIXTURE = {
    "model_type": "deepseek_v3",
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 24,
    "num_hidden_layers": 2,
    "first_k_dense_replace": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "q_lora_rank": None,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 4,
    "topk_group": 2,
    "tie_word_embeddings": True,
}


def test_a_dense_model_is_what_torch_counts():
    model = new_policy(DENSE, seed=0)
    model.set_attn_implementation("eager")  # whose products torch sees
    cost, rows, length = forward_cost(model), 3, 10
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.ones(rows, length, dtype=torch.long), use_cache=False)
    # Torch counts the whole square of scores, the causal half and its mirror.
    expected = rows * (length * (cost.token + cost.head) + length**2 * cost.pair)
    # The rotary angles are a product, too, that is left out here.
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.01)


def test_multi_token_prediction_is_a_block_and_a_projection():
    model = new_policy(MIXTURE, seed=0)
    found, whole = forward_cost(MultiTokenPrediction(model, seed=0)), forward_cost(model)
    dense = forward_cost(new_policy(MIXTURE | {"num_hidden_layers": 1}, seed=0))
    assert found.token == whole.token - dense.token + 2 * (2 * 32) * 32
    assert (found.pair, found.head, found.trained) == (whole.pair / 2, 0, 1)


def test_of_a_mixture_the_active_experts_count():
    cost = forward_cost(new_policy(MIXTURE, seed=0))
    h = 32
    attention = h * 2 * 16 + h * (16 + 8) + 16 * 2 * (8 + 12) + 2 * 12 * h
    dense, expert, router = 3 * h * 48, 3 * h * 24, 8 * h
    # Two layers' attention, a dense one, and a mixture: two of eight experts, the shared one, the router.
    assert cost.token == 2 * (2 * attention + dense + (2 + 1) * expert + router)
    assert cost.pair == 2 * 2 * 2 * (16 + 12)
    assert cost.head == 2 * 50 * h


@pytest.mark.parametrize("kind", ["mamba", "rwkv"])
def test_models_without_attention_cost_nothing_for_pairs_of_tokens(kind):
    cost = forward_cost(tiny_model(kind))
    assert cost.pair == 0 and cost.token > 0
