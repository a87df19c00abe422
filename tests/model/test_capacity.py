"""Ids beyond the embedding and sequences beyond the positions are rejected where they meet the model."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig

from r1lab.model.capacity import check_batch, check_sequences, check_token_ids, positions
from r1lab.model.policy import load_tokenizer, new_policy
from r1lab.rollout.collate import collate
from r1lab.rollout.hf import CachedLoop, TransformersGenerate
from r1lab.rollout.sampling import Sampling
from r1lab.types import Prompt
from tests.architectures import tiny_model
from tests.model.byte_tokenizer import tokenizer

GPT2 = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16, "eos_token_id": 1}


def gpt2(vocab_size=259):
    return new_policy(GPT2 | {"vocab_size": vocab_size, "bos_token_id": 0}, seed=0)


def test_a_tokenizer_larger_than_the_embedding_is_rejected():
    check_token_ids(gpt2(), writes := tokenizer(None), "model.name=x")
    check_token_ids(gpt2(300), writes, "model.name=x")  # padded to a round number, as many are
    writes.add_tokens(["new"])
    with pytest.raises(ValueError, match=r"^model.name=x: the tokenizer has 260 tokens .* 259 rows.*'new' with id 259"):
        check_token_ids(gpt2(), writes, "model.name=x")


def test_a_pad_token_beyond_the_embedding_is_rejected_and_one_of_images_only_in_a_prompt():
    model, writes = gpt2(), tokenizer(None)
    writes.add_special_tokens({"additional_special_tokens": ["<image>"]})
    check_token_ids(model, writes, "model.name=x")
    with pytest.raises(ValueError, match="holds the token id 259, and the model's embedding has 259 rows: remove"):
        check_sequences(model, [writes.encode("a"), writes.encode("a<image>")])
    writes.add_special_tokens({"pad_token": "<pad>"})
    with pytest.raises(ValueError, match="259 rows, so that the token '<pad>', the pad_token, with id 260 has none"):
        check_token_ids(model, writes, "model.name=x")


def test_a_shipped_base_has_a_row_for_each_token():
    check_token_ids(new_policy(GPT2 | {"vocab_size": 121}, seed=0), load_tokenizer("tiny"), "model.name=tiny")


@pytest.mark.parametrize("engine", [CachedLoop, TransformersGenerate])
def test_prompts_and_completions_beyond_the_positions_are_rejected(engine):
    model, writes = gpt2(), tokenizer(None)
    samples = engine(writes)

    def generate(tokens, new):
        options = {"group_size": 1, "sampling": Sampling(1.0, new), "seed": 0, "step": 0}
        return samples.generate(model, [Prompt((5,) * tokens, "", "")], **options)

    assert len(generate(10, 6)) == 1
    with pytest.raises(ValueError, match=r"prompt of 10 tokens and max_new_tokens=7 exceed the 16 .* to at most 6, or"):
        generate(10, 7)
    with pytest.raises(ValueError, match=r"prompt of 16 tokens .* \(max_position_embeddings\): leave out long prompts"):
        generate(16, 1)


@pytest.mark.parametrize("packed", [False, True])
def test_texts_to_be_learnt_fit_too(packed):
    model = gpt2()
    check_batch(model, collate([[5] * 10, [5]], [[6] * 6, [6]], 0, packed=packed))
    with pytest.raises(ValueError, match="a text of 17 tokens exceeds the 16 positions of the model"):
        check_batch(model, collate([[5] * 10, [5]], [[6] * 7, [6]], 0, packed=packed))
    with pytest.raises(ValueError, match="token id 259"):
        check_batch(model, collate([[259]], [[6]], 0, packed=packed))


@pytest.mark.parametrize(
    ("kind", "settings", "limit"),
    [
        ("llama", {"max_position_embeddings": 64}, 64),
        ("opt", {"max_position_embeddings": 64}, 64),
        ("gpt2", {"n_positions": 64}, 64),
        ("mpt", {"max_seq_len": 48}, 48),
        ("whisper", {"max_target_positions": 64}, 64),
        ("mamba", {}, None),
        ("bloom", {}, None),
        # Its positions are stretched, whether max_position_embeddings says so or not.
        ("llama", {"max_position_embeddings": 64, "rope_parameters": {"rope_type": "linear", "factor": 4.0}}, 256),
        (
            "qwen2",
            {
                "max_position_embeddings": 256,
                "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
            },
            256,
        ),
    ],
)
def test_positions_of_a_config(kind, settings, limit):
    assert positions(AutoConfig.for_model(kind, **settings)) == limit


def test_the_error_names_the_option_that_limits_the_sequences():
    with pytest.raises(ValueError, match=r"a text of 65 tokens exceeds the 64 positions of the model \(max_seq_len\)"):
        check_sequences(tiny_model("mpt"), [[5] * 65])


def test_a_model_that_does_not_tell_its_embedding_is_let_pass():
    class Untold(torch.nn.Module):
        config = SimpleNamespace(get_text_config=lambda **_: SimpleNamespace())

        def get_input_embeddings(self):
            raise NotImplementedError

    check_sequences(Untold(), [[10**6]], 10**6)
    check_token_ids(Untold(), tokenizer(None), "x")


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_positions_whose_frequencies_follow_the_batch_end_where_they_begin_to(kind):
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4} if kind == "longrope" else {}
    rope = {"rope_type": kind, "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 16, **factors}
    options = {"hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 64}
    config = AutoConfig.for_model("llama", **options, rope_parameters=rope)
    assert positions(config) == 16
