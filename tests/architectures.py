"""Tiny models of transformers' architectures, to try what must hold for any of them."""

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

VOCABULARY = 64
_IDS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
_LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
_EIGHT = _LLAMA | {"head_dim": 8}
_ONE_KIND = _LLAMA | {"num_key_value_heads": 4}
_EXPERTS = _EIGHT | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
_OPT = {
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "word_embed_proj_dim": 32,
    "max_position_embeddings": 64,
}
_MLA = _LLAMA | {
    "num_key_value_heads": 4,
    "q_lora_rank": None,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
}
_LAYERS = {"hidden_size": 32, "num_hidden_layers": 2}
_MAMBA = {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1}

# name -> options of its config beside the ids
ARCHITECTURES: dict[str, dict] = {
    "apertus": _LLAMA,
    "arcee": _LLAMA,
    "bart": {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48},
    "bert": _ONE_KIND | {"is_decoder": True},
    "biogpt": _ONE_KIND,
    "bitnet": _LLAMA,
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "codegen": _GPT2 | {"rotary_dim": 4},
    "cohere": _LLAMA | {"logit_scale": 0.25},
    "cohere2": _EIGHT | {"logit_scale": 0.25},
    "ctrl": {"n_embd": 32, "n_layer": 2, "n_head": 4, "dff": 48, "n_positions": 64},
    "deepseek_v2": _MLA,
    "deepseek_v3": _MLA | {"n_group": 2, "topk_group": 1},
    "diffllama": _LLAMA,
    "ernie4_5": _LLAMA,
    "exaone4": _EIGHT,
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": False},
    "falcon_alibi": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True},
    "falcon_h1": _LLAMA | _MAMBA | {"lm_head_multiplier": 0.25},
    "falcon_mamba": _LAYERS | {"state_size": 4},
    "gemma": _EIGHT,
    "gemma2": _EIGHT | {"final_logit_softcapping": 2.0},
    "gemma3_text": _EIGHT,
    "glm": _EIGHT,
    "glm4": _EIGHT,
    "glm4_moe": _EXPERTS | {"n_routed_experts": 4, "n_group": 1, "topk_group": 1},
    "gpt2": _GPT2,
    "gpt_bigcode": _GPT2,
    "gpt_neox": _ONE_KIND,
    "gpt_oss": _EIGHT | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gptj": _GPT2 | {"rotary_dim": 4},
    "granite": _LLAMA | {"logits_scaling": 4.0},
    "granitemoe": _LLAMA | {"logits_scaling": 4.0, "num_local_experts": 4, "num_experts_per_tok": 2},
    "helium": _EIGHT,
    "hyperclovax": _LLAMA | {"logits_scaling": 0.25},
    "inkling_text": _EIGHT
    | {
        "logits_mup_width_multiplier": 4.0,
        "unpadded_vocab_size": 60,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "swa_head_dim": 8,
        "moe_intermediate_size": 16,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
    },
    "jamba": _LLAMA
    | {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "mamba_d_state": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "use_mamba_kernels": False,
    },
    "jetmoe": _LAYERS | {"intermediate_size": 48, "num_key_value_heads": 2, "kv_channels": 8},
    "lfm2": _LLAMA | {"layer_types": ["conv", "full_attention"]},
    "llama": _LLAMA,
    "llama4_text": _EIGHT | {"num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 48},
    "mamba": _LAYERS | {"state_size": 4},
    "mamba2": _LAYERS | {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "chunk_size": 8},
    "minimax": _EIGHT | {"num_local_experts": 4},
    "mistral": _LLAMA,
    "mixtral": _LLAMA | {"num_local_experts": 4},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64, "logit_scale": 3.0},
    "nanochat": _LLAMA | {"final_logit_softcapping": 2.0},
    "nemotron": _LLAMA,
    "olmo": _LLAMA,
    "olmo2": _LLAMA,
    "olmo3": _LLAMA,
    "olmoe": _LLAMA | {"num_experts": 4, "num_experts_per_tok": 2},
    "openai-gpt": _GPT2,
    "opt": _OPT,
    "persimmon": _ONE_KIND,
    "phi": _ONE_KIND,
    "phi3": _LLAMA,
    "phimoe": _LLAMA | {"num_local_experts": 4},
    "qwen2": _LLAMA,
    "qwen2_moe": _EXPERTS | {"shared_expert_intermediate_size": 16},
    "qwen3": _EIGHT,
    "qwen3_moe": _EXPERTS,
    "qwen3_next": _EXPERTS
    | {
        "shared_expert_intermediate_size": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "layer_types": ["linear_attention", "full_attention"],
    },
    "recurrent_gemma": _EIGHT
    | {
        "lru_width": 32,
        "logits_soft_cap": 2.0,
        "attention_window_size": 16,
        "block_types": ["recurrent", "attention"],
    },
    "roberta": _ONE_KIND | {"is_decoder": True},
    "rwkv": _LAYERS | {"attention_hidden_size": 32, "context_length": 64},
    "seed_oss": _EIGHT,
    "smollm3": _LLAMA,
    "stablelm": _ONE_KIND,
    "starcoder2": _LLAMA,
    "xglm": {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48, "max_position_embeddings": 64},
    "zamba2": _LAYERS
    | {
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "attention_head_dim": 16,
        "mamba_d_state": 8,
        "mamba_headdim": 16,
        "n_mamba_heads": 4,
        "num_mem_blocks": 1,
        "layers_block_type": ["mamba", "hybrid"],
    },
}  # fmt: skip
_KINDS = {"falcon_alibi": "falcon"}  # the others' model_type is their name
# Older releases of transformers lack some.
ARCHITECTURES = {name: options for name, options in ARCHITECTURES.items() if _KINDS.get(name, name) in CONFIG_MAPPING}


def tiny_model(name: str, dtype: torch.dtype = torch.float32):
    """An untrained model in eval mode, its matrices four times as large as usual, so that what differs shows."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(_KINDS.get(name, name), **_IDS | ARCHITECTURES[name])
    model = AutoModelForCausalLM.from_config(config).eval().to(dtype)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(4)
    return model
