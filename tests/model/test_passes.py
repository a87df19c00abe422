import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig

from r1lab.kernel import dry as kernel
from r1lab.loss.logprob import linear_logprob
from r1lab.model.fake import FakeModel, meta_model
from r1lab.model.passes import Microbatch, copies_bytes, dry, forward_bytes, hidden_states, rollout_bytes, update_bytes
from r1lab.model.policy import new_policy

MIB = 2**20
RESULTS = Path(__file__).parents[1] / "benchmark" / "results" / "bench_step.csv"
LLAMA = {
    "model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": True, "pad_token_id": 0,
}  # fmt: skip
MOE = {
    "model_type": "deepseek_v3", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
    "moe_intermediate_size": 24, "first_k_dense_replace": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
    "q_lora_rank": None, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 16,
    "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1,
    "tie_word_embeddings": True, "pad_token_id": 0,
}  # fmt: skip
# Two models of the benchmark, and the completions of 896 tokens behind 128 of prompt that it measured on an H100.
MEASURED = {
    "smollm2-135m": (
        {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
         "num_attention_heads": 9, "num_key_value_heads": 3, "model_type": "llama"}, 16,
    ),
    "qwen2.5-1.5b": (
        {"vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
         "num_attention_heads": 12, "num_key_value_heads": 2, "model_type": "qwen2"}, 8,
    ),
}  # fmt: skip


def fake_of(config: dict, dtype=torch.float32, **options) -> FakeModel:
    config = dict(config)
    whole = meta_model(AutoConfig.for_model(config.pop("model_type"), **config), dtype)
    return FakeModel.of(whole, FakeTensorMode(), **options)


def mean(hidden):
    return hidden.float().mean()


@pytest.mark.parametrize("name", ["smollm2-135m", pytest.param("qwen2.5-1.5b", marks=pytest.mark.slow)])
def test_peaks_are_those_that_an_h100_measured(name):
    config, rows = MEASURED[name]
    with RESULTS.open() as file:
        measured = {row["provider"]: row for row in csv.DictReader(file) if row["model"] == name}
    common = {"tie_word_embeddings": True, "pad_token_id": 0, "max_position_embeddings": 2048}
    fake, batch = fake_of(config | common, torch.bfloat16), Microbatch(rows, 1024, rows * 896)
    head = fake.model.get_output_embeddings().weight

    def definition(hidden, entropy="value"):
        ids = torch.zeros(len(hidden), dtype=torch.int64)
        return linear_logprob(hidden, head, ids, temperature=1.0, entropy=entropy)[0].sum()

    with dry(fake) as ledger:
        found = {
            "body": update_bytes(ledger, fake, batch, mean).peak,
            "triton": update_bytes(ledger, fake, batch, lambda h: kernel.linear_grpo_loss(h, head)).peak,
            "torch": update_bytes(ledger, fake, batch, definition).peak,
        }
        scored = {
            "triton": forward_bytes(ledger, fake, batch, lambda h: kernel.linear_logprob(h, head)),
            "torch": forward_bytes(ledger, fake, batch, lambda h: definition(h, "none")),
        }
        assert ledger.now == 0
    for provider, nbytes in found.items():
        assert nbytes / MIB == pytest.approx(float(measured[provider]["update_mib"]), rel=0.005), provider
    for provider, nbytes in scored.items():
        assert nbytes / MIB == pytest.approx(float(measured[provider]["logprobs_mib"]), rel=0.02), provider


def really_saved(config: dict, batch: Microbatch) -> int:
    """Bytes of distinct storages that autograd saves of a real forward pass on the CPU, weights aside."""
    policy = new_policy(config, seed=0, experts="grouped_mm" if config is MOE else None)
    weights = {x.untyped_storage().data_ptr() for x in (*policy.parameters(), *policy.buffers())}
    saved = {}

    def pack(x):
        if x.untyped_storage().data_ptr() not in weights:
            saved[x.untyped_storage().data_ptr()] = x.untyped_storage()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        ids = torch.randint(64, (batch.rows, batch.width))
        policy.base_model(input_ids=ids, use_cache=False)
    return sum(storage.nbytes() for storage in saved.values())


@pytest.mark.parametrize("config", [LLAMA, MOE], ids=["llama", "moe"])
def test_activations_are_what_autograd_saves_on_a_cpu(config):
    # The CPU's attention keeps a copy of its output in the latent kind, which a GPU's does not: one part in 25 here.
    batch = Microbatch(8, 64, 8 * 40)
    fake = fake_of(config)
    with dry(fake) as ledger:
        found = update_bytes(ledger, fake, batch, mean).activations
    assert found == pytest.approx(really_saved(config, batch), rel=0.05 if config is MOE else 0.02)


@pytest.mark.parametrize("config", [LLAMA, MOE], ids=["llama", "moe"])
def test_a_few_layers_say_what_all_of_them_take(config, monkeypatch):
    batch, found = Microbatch(4, 32, 64), []
    for depth in (2, 100):
        monkeypatch.setattr("r1lab.model.fake.DEPTH", depth)
        fake = fake_of(config)
        assert sum(fake.extra) == (0 if depth == 100 else config["num_hidden_layers"] - len(fake.layers))
        with dry(fake) as ledger:
            found.append([update_bytes(ledger, fake, batch, mean), forward_bytes(ledger, fake, batch, mean)])
    short, whole = (update for update, _ in found)
    assert [replace(short, course=()), found[0][1]] == [replace(whole, course=()), found[1][1]]
    for gradient in (0, 10**3, 10**4, 10**6):  # of a layer, so that the most is at the begin, or at the end
        peaks = [max(most + gradient * made for most, made in x.course) for x in (short, whole)]
        assert peaks[0] == peaks[1]


def test_the_course_of_an_update_begins_at_its_peak_and_ends_with_all_gradients():
    batch, fake = Microbatch(4, 32, 64), fake_of(LLAMA)
    with dry(fake) as ledger:
        found = update_bytes(ledger, fake, batch, mean)
    most, made = zip(*found.course, strict=True)
    assert max(most[:2]) == found.peak and made[:2] == (0, 0)
    assert list(made) == sorted(made) and made[-1] == LLAMA["num_hidden_layers"]
    assert max(most[-2:]) < found.peak - found.activations / 2  # a layer's alone


def test_checkpointing_keeps_a_hidden_state_a_layer():
    batch, fake = Microbatch(4, 64, 200), fake_of(LLAMA)
    with dry(fake) as ledger:
        plain = update_bytes(ledger, fake, batch, mean)
        thrifty = update_bytes(ledger, fake, batch, mean, checkpointing=True)
    state = 4 * 64 * 32 * 4
    assert 4 * state <= thrifty.activations <= 10 * state
    assert thrifty.peak < plain.peak / 2
    assert thrifty.peak > thrifty.activations + state  # a layer at a time comes on top


def test_a_value_models_activations_come_on_top():
    fake = fake_of(LLAMA)
    value, batch = FakeModel.of(meta_model(fake.model.config, torch.float32), fake.mode), Microbatch(4, 64, 200)
    value.extra = fake.extra = [0, 0]
    with dry(fake, value) as ledger:
        one = update_bytes(ledger, fake, batch, mean)
        two = update_bytes(ledger, fake, batch, lambda h: mean(h) + mean(hidden_states(value, batch)), second=value)
    assert two.activations == pytest.approx(2 * one.activations, rel=0.05)
    assert two.peak - one.peak == pytest.approx(one.activations, rel=0.1)


def test_autocast_halves_linear_layers_and_keeps_copies_of_their_weights():
    batch, fake = Microbatch(4, 64, 200), fake_of(LLAMA)
    with dry(fake) as ledger:
        plain = update_bytes(ledger, fake, batch, mean)
    with dry(fake, autocast=torch.bfloat16) as ledger:
        copies = copies_bytes(ledger, fake, batch)
        assert copies_bytes(ledger, fake, batch) == 0  # they are there
        assert copies_bytes(ledger, fake, batch, head=True) == 2 * 64 * 32
        mixed = update_bytes(ledger, fake, batch, mean)
    linear = sum(m.weight.numel() for m in fake.layers.modules() if isinstance(m, nn.Linear))
    assert copies == 2 * 2 * linear  # of 4 layers, 2 are there
    assert mixed.activations < 0.9 * plain.activations


@pytest.mark.parametrize(("config", "token"), [(LLAMA, 4 * 2 * 32 * 4), (MOE, 4 * (16 + 8) * 4)], ids=["llama", "moe"])
def test_the_cache_holds_keys_and_values_or_latents(config, token):
    fake = fake_of(config)
    options = {"prompts": 2, "group_size": 4, "prompt_tokens": 9, "new_tokens": 120, "sample": lambda z: z.softmax(-1)}
    with dry(fake) as ledger:
        found = rollout_bytes(ledger, fake, **options)
        assert ledger.now == 0
    assert found.token == token
    assert found.cache == pytest.approx(8 * 128 * token, rel=0.01)
    assert found.peak > found.cache
