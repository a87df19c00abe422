import json
from pathlib import Path

import pytest
import torch
import yaml

from r1lab.model.policy import (
    load_policy,
    load_tokenizer,
    model_folder,
    new_policy,
    pack_model,
    pack_tokenizer,
    rebuild,
    unpack_tokenizer,
)
from r1lab.model.tiny import tiny_tokenizer

CONFIG = yaml.safe_load((Path(__file__).parents[2] / "conf/model/tiny_untrained.yaml").read_text())["policy"]["config"]
IDS = torch.tensor([[7, 20, 30, 40]])


@pytest.fixture(scope="module")
def policy():
    policy = new_policy(CONFIG, seed=0)
    # The routing bias is a buffer, and 0 in a new policy.
    for name, buffer in policy.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.normal_(generator=torch.Generator().manual_seed(0))
    return policy


def test_a_new_policy_follows_from_its_seed_and_leaves_the_global_generator_alone():
    state = torch.random.get_rng_state()
    first, again, other = new_policy(CONFIG, seed=0), new_policy(CONFIG, seed=0), new_policy(CONFIG, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not first.training


def test_config_and_weights_make_the_same_policy(policy):
    again = rebuild(pack_model(policy), policy.state_dict())
    assert type(again) is type(policy)
    assert again.config.to_dict() | {"dtype": None} == policy.config.to_dict() | {"dtype": None}
    assert all(torch.equal(a, b) for a, b in zip(again.buffers(), policy.buffers(), strict=True))
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, policy(IDS).logits)
    assert not again.training


def test_what_ends_a_completion_and_the_implementations_are_kept(policy):
    model = new_policy(CONFIG, seed=0, experts="grouped_mm")
    model.set_attn_implementation("eager")
    model.generation_config.eos_token_id = [1, 5]
    again = rebuild(json.loads(json.dumps(pack_model(model))), model.state_dict())
    assert again.generation_config.eos_token_id == [1, 5]
    assert again.config._attn_implementation == "eager"
    assert again.config._experts_implementation == "grouped_mm"
    elsewhere = pack_model(policy) | {"attention": "flash_attention_3"}
    assert rebuild(elsewhere, policy.state_dict()).config._attn_implementation in ("sdpa", "eager")


def test_rebuild_keeps_the_dtype(policy):
    weights = {k: v.bfloat16() if v.is_floating_point() else v for k, v in policy.state_dict().items()}
    assert rebuild(pack_model(policy), weights).dtype == torch.bfloat16


def test_rebuild_refuses_weights_of_another_model(policy):
    weights = dict(policy.state_dict())
    weights.pop("model.norm.weight")
    with pytest.raises(RuntimeError, match="model.norm.weight"):
        rebuild(pack_model(policy), weights)


def test_hugging_face_folder(policy, tmp_path):
    policy.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    loaded = load_policy(str(tmp_path), dtype="float32", attention="sdpa", experts="grouped_mm")
    with torch.no_grad():
        torch.testing.assert_close(loaded(IDS).logits, policy(IDS).logits)
    assert load_tokenizer(str(tmp_path)).get_vocab() == tiny_tokenizer().get_vocab()


def test_a_tokenizer_without_padding_pads_with_its_end(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).pad_token_id == 1


def test_a_dtype_that_is_none():
    for name in ("foo", "int8", "nn"):
        with pytest.raises(ValueError, match=f"model.policy.dtype={name} is no dtype of weights"):
            load_policy("tiny", dtype=name)


def test_a_folder_that_is_not_there():
    with pytest.raises(FileNotFoundError, match="model.name=./nowhere"):
        model_folder("./nowhere")


def test_tokenizer_as_text():
    tokenizer = tiny_tokenizer()
    files = pack_tokenizer(tokenizer)
    assert all(isinstance(text, str) for text in files.values())
    again = unpack_tokenizer(files)
    text = "User: 7 + 5 * 99 Assistant: <think> 7 + 5 = 12 , hmm </think> <answer> 0 </answer>"
    ids = tokenizer.encode(text)
    assert again.encode(text) == ids
    assert again.decode(ids) == tokenizer.decode(ids) == text
    assert (again.pad_token_id, again.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"n_routed_experts": 10}, "n_routed_experts=10 does not divide into model.policy.config.n_group=4"),
        ({"n_group": 8}, "n_group=8 leaves 1 expert a group"),
        ({"topk_group": 5}, "topk_group=5 must be from 1 to n_group=4"),
        ({"num_experts_per_tok": 5}, "num_experts_per_tok=5 must be from 1 to the 4 experts of topk_group=2"),
    ],
)
def test_experts_that_cannot_be_chosen_are_told(changed, told):
    config = {"model_type": "deepseek_v3", "n_routed_experts": 8, "n_group": 4, "topk_group": 2}
    with pytest.raises(ValueError, match=told):
        new_policy(config | {"num_experts_per_tok": 2} | changed, seed=1)


def test_checkpointed_layers_keep_their_input_alone():
    def kept(checkpointing: bool) -> int:
        model = load_policy("tiny", dtype="float32", activation_checkpointing=checkpointing)
        weights, saved = {p.data_ptr() for p in model.parameters()}, []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
            model(input_ids=torch.arange(2, 42)[None], use_cache=False)
        assert not any(part.training for part in model.modules() if isinstance(part, torch.nn.Dropout))
        return sum({x.data_ptr(): x.nbytes for x in saved if x.data_ptr() not in weights}.values())

    assert kept(True) < kept(False) / 2
