"""Each way to compute logprobs, on each architecture: equal to the model's own on a row alone, or rejected."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from r1lab.model.attention import use_attention
from r1lab.model.row_check import check_rows
from r1lab.module.logprobs import completion_logprobs
from r1lab.rollout.collate import collate
from r1lab.rollout.hf import CachedLoop, TransformersGenerate
from r1lab.rollout.sampling import Sampling
from r1lab.types import Prompt
from tests.architectures import ARCHITECTURES, tiny_model

PROMPTS = [(5, 6, 7), (9,), (11, 12, 13, 14, 15, 50)]
COMPLETIONS = [(20, 21, 22, 23), (30, 31), (40, 41, 42, 43, 44, 45)]
TOLERANCE = 1e-3  # nats
# Architectures that one of the ways computes otherwise; all others are computed in every way.
ENCODERS, STATEFUL = {"bert", "roberta"}, {"falcon_h1", "falcon_mamba", "jamba", "lfm2", "mamba", "mamba2", "minimax"}
STATEFUL |= {"inkling_text", "qwen3_next", "recurrent_gemma", "rwkv", "zamba2"}
NO_BODY = {"bart", "llama4_text"}  # transformers does not say which part of the model is its body
REJECTED = {
    "padded": {*NO_BODY, *ENCODERS},
    "packed": {*NO_BODY, *ENCODERS, *STATEFUL}
    | {"biogpt", "bloom", "falcon", "falcon_alibi", "gpt_oss", "mpt", "openai-gpt", "opt", "xglm"},
    "loop": {"bart", "openai-gpt", "roberta", *STATEFUL},
    "generate": {"bart", "roberta", "rwkv"},
}
QUICK = ("granite", "opt", "rwkv")


def alone(model, prompt, completion):
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *completion]]), use_cache=False).logits[0].float()
    return logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(-1, torch.tensor(completion)[:, None])[:, 0]


def trained(model, packed):
    batch = collate(PROMPTS, COMPLETIONS, 0, packed=packed)
    with torch.no_grad():
        logprobs = completion_logprobs(model, batch, temperature=1.0)[0]
    return [(*pair, row[: len(pair[1])]) for *pair, row in zip(PROMPTS, COMPLETIONS, logprobs, strict=True)]


def sampled(model, engine):
    texts = SimpleNamespace(pad_token_id=0, eos_token_id=1, batch_decode=lambda rows, **_: [""] * len(rows))
    prompts = [Prompt(ids, "", "", i) for i, ids in enumerate(PROMPTS)]
    rows = engine(texts).generate(model, prompts, group_size=2, sampling=Sampling(1.0, 8), seed=3, step=1)
    return [(PROMPTS[i // 2], row.ids, torch.tensor(row.sampling_logprobs)) for i, row in enumerate(rows)]


def outcome(architecture, way, attention=None):
    """Equal, rejected, or by how many nats it is off."""
    model = tiny_model(architecture)
    use_attention(model, attention)
    try:
        rows = {
            "padded": lambda: trained(model, False),
            "packed": lambda: trained(model, True),
            "loop": lambda: sampled(model, CachedLoop),
            "generate": lambda: sampled(model, TransformersGenerate),
        }[way]()
    except ValueError as error:
        assert type(model).__name__.split("For")[0].removesuffix("LMHeadModel") in str(error)
        return "rejected"
    off = max(float((alone(model, prompt, completion) - found).abs().max()) for prompt, completion, found in rows)
    return "equal" if off <= TOLERANCE else f"{off:.1e} nats off"


@pytest.mark.parametrize("way", REJECTED)
@pytest.mark.parametrize(
    "architecture", [a if a in QUICK else pytest.param(a, marks=pytest.mark.slow) for a in ARCHITECTURES]
)
def test_logprobs_are_the_models_own_or_rejected(architecture, way):
    assert outcome(architecture, way) == ("rejected" if architecture in REJECTED[way] else "equal")


@pytest.mark.parametrize(
    "architecture", [a if a in ("gemma2", *QUICK) else pytest.param(a, marks=pytest.mark.slow) for a in ARCHITECTURES]
)
@pytest.mark.parametrize("way", ["padded", "packed", "loop"])
def test_the_same_with_the_attention_of_model_hf(architecture, way):
    """`model=hf` sets attention=auto, which is varlen on a CPU."""
    assert outcome(architecture, way, "auto") == ("rejected" if architecture in REJECTED[way] else "equal")


@pytest.mark.parametrize(
    ("architecture", "remedy"),
    [("rwkv", "neither can rollout=generate"), ("lfm2", "r1lab.train samples it with rollout=generate")],
)
def test_the_remedy_of_the_loop_works(architecture, remedy):
    with pytest.raises(ValueError, match=remedy):
        sampled(tiny_model(architecture), CachedLoop)


def test_a_pass_that_raises_is_not_called_one_of_a_model_that_is_not_causal(monkeypatch):
    model = tiny_model("llama")
    monkeypatch.setattr(model.base_model, "forward", lambda **_: 1 / 0)
    with pytest.raises(ValueError, match="ZeroDivisionError.*; take a model of another architecture"):
        check_rows(model.base_model, False)
    monkeypatch.setattr("r1lab.rollout.sampling_check._logprobs", lambda *_, **__: 1 / 0)
    with pytest.raises(ValueError, match="CachedLoop cannot sample from LlamaForCausalLM"):
        sampled(tiny_model("llama"), CachedLoop)


@pytest.mark.parametrize("architecture", ["lfm2", "bloom", "opt", "llama", "deepseek_v3"])
@pytest.mark.parametrize("autocast", [False, True])
def test_packing_is_judged_alike_in_16_bits(architecture, autocast):
    model = tiny_model(architecture, torch.float32 if autocast else torch.bfloat16)
    rejected = architecture in REJECTED["packed"]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        with pytest.raises(ValueError, match="padding_free=true") if rejected else nullcontext():
            check_rows(model.base_model, True)
