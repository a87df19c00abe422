"""The loop against transformers' own generate, and what may not change its samples."""

import itertools
import math
from pathlib import Path

import pytest
import torch
import yaml

from r1lab.model.policy import new_policy
from r1lab.model.tiny import tiny_tokenizer
from r1lab.module.logprobs import completion_logprobs
from r1lab.rollout import hf, norms
from r1lab.rollout.collate import collate
from r1lab.rollout.hf import CachedLoop, TransformersGenerate, stop_tokens
from r1lab.rollout.sampling import Sampling
from r1lab.types import Prompt

CONF = Path(__file__).parents[2] / "conf"
DEEPSEEK = yaml.safe_load((CONF / "model/tiny_untrained.yaml").read_text())["policy"]["config"]
LLAMA = {
    "model_type": "llama",
    "vocab_size": 121,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
TOKENIZER = tiny_tokenizer()
# Of different lengths, out of order, so that rows are padded on the left and sorted by the loop.
PROMPTS = [
    Prompt(tuple(TOKENIZER.encode(text)), text, "", index=index)
    for index, text in (
        (3, "User: 7 + 5 * 4 Assistant:"),
        (0, "User: 1 - 2 Assistant:"),
        (11, "User: 90 * 3 + 4 - 7 * 5 Assistant:"),
        (7, "User: 8 Assistant:"),
        (8, "User: 9 Assistant:"),
    )
]


@pytest.fixture(scope="module", params=["deepseek", "llama"])
def model(request):
    config = DEEPSEEK if request.param == "deepseek" else LLAMA
    # Larger weights than training starts from, so that the next token depends on what came before.
    model = new_policy(config | {"initializer_range": 0.3}, seed=0)
    # A sixth of all tokens ends a completion: rows finish at every length.
    model.generation_config.eos_token_id = list(range(1, 21))
    return model


def generate(model, engine=None, prompts=PROMPTS, *, temperature=1.0, tokens=12, top_k=0, **options):
    engine = engine or CachedLoop(TOKENIZER)
    settings = {"group_size": 3, "seed": 1, "step": 0} | options
    return engine.generate(model, prompts, sampling=Sampling(temperature, tokens, top_k), **settings)


def test_greedy_equals_transformers_token_for_token(model):
    ours, theirs = (
        generate(model, engine, group_size=2, temperature=0.0, tokens=20)
        for engine in (CachedLoop(TOKENIZER), TransformersGenerate(TOKENIZER))
    )
    assert [c.ids for c in ours] == [c.ids for c in theirs]
    assert [(c.text, c.truncated) for c in ours] == [(c.text, c.truncated) for c in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.sampling_logprobs == pytest.approx(other.sampling_logprobs, abs=1e-4)
    # The comparison is of different texts, some of them ended by a stop token.
    assert len({c.ids for c in ours}) == len(PROMPTS)
    assert {len(c.ids) for c in ours} != {20}


def test_fused_norms_change_no_token(model, monkeypatch):
    expected, calls = generate(model), []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(norms, "fused", lambda *args, own=norms.fused: calls.append(1) or own(*args))
    assert generate(model, CachedLoop(TOKENIZER, fused_norms=False)) == expected and not calls
    found = generate(model)
    assert calls and [c.ids for c in found] == [c.ids for c in expected]
    for mine, other in zip(found, expected, strict=True):
        assert mine.sampling_logprobs == pytest.approx(other.sampling_logprobs, abs=1e-4)


def test_completions_end_at_a_stop_token_or_at_the_limit(model):
    completions = generate(model, group_size=16)
    stops = stop_tokens(model, TOKENIZER)
    assert stops == list(range(1, 21))
    for completion in completions:
        assert not set(completion.ids[:-1]) & set(stops)
        assert completion.truncated == (completion.ids[-1] not in stops)
        assert len(completion.ids) == 12 or not completion.truncated
        assert len(completion.sampling_logprobs) == len(completion.ids)
    assert {c.truncated for c in completions} == {True, False}


def test_samples_do_not_depend_on_batching_company_or_dropping(model, monkeypatch):
    whole = generate(model)
    ids = [c.ids for c in whole]
    assert len(set(ids)) > 10
    for batch_size in (1, 6, 7):
        assert [c.ids for c in generate(model, CachedLoop(TOKENIZER, batch_size))] == ids
    for n, prompt in enumerate(PROMPTS):
        assert [c.ids for c in generate(model, prompts=[prompt])] == ids[3 * n : 3 * n + 3]
    assert [c.ids for c in generate(model, group_size=2)] == [ids[3 * n + g] for n in range(5) for g in range(2)]
    for share in (0.0, 1.0):  # dropped at once, and never
        monkeypatch.setattr(hf, "_DROP_SHARE", share)
        assert [c.ids for c in generate(model)] == ids
    assert [c.ids for c in generate(model, seed=2)] != ids
    assert [c.ids for c in generate(model, step=1)] != ids


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampling_logprobs_are_the_trainers(model, temperature):
    completions = generate(model, temperature=temperature, top_k=30)
    expanded = [prompt for prompt in PROMPTS for _ in range(3)]
    batch = collate([p.ids for p in expanded], [c.ids for c in completions], 0)
    with torch.no_grad():
        logprobs, _ = completion_logprobs(model, batch, temperature=temperature)
    for row, mask, completion in zip(logprobs, batch.completion_mask, completions, strict=True):
        assert row[mask].tolist() == pytest.approx(completion.sampling_logprobs, abs=2e-4)


@pytest.mark.parametrize("engine", [CachedLoop(TOKENIZER), TransformersGenerate(TOKENIZER)])
@pytest.mark.parametrize("training", [True, False])
def test_the_policys_mode_is_put_back(model, engine, training):
    model.train(training)
    generate(model, engine, tokens=2)
    assert model.training == training
    model.eval()


@pytest.mark.parametrize("engine", [CachedLoop, TransformersGenerate])
def test_frequencies_are_those_of_the_model(engine):
    # A vocabulary of 7, of which 1 ends: all completions of up to two tokens are 1 and the 6 * 7 others.
    vocab, samples = 7, 4000
    config = LLAMA | {"vocab_size": vocab, "initializer_range": 0.5, "hidden_size": 16}
    model = new_policy(config, seed=3)
    # The shorter prompt is padded.
    prompts = [Prompt((2, 5, 3), "", "", index=1), Prompt((6, 4, 2, 2, 3), "", "", index=2)]
    options = {"group_size": samples, "tokens": 2, "temperature": 0.8}
    drawn = generate(model, engine(TOKENIZER), prompts, **options)
    for number, prompt in enumerate(prompts):
        counts: dict[tuple, int] = {}
        for completion in drawn[number * samples : (number + 1) * samples]:
            counts[completion.ids] = counts.get(completion.ids, 0) + 1
        expected = {ids: samples * p for ids, p in exact(model, prompt.ids, vocab, 0.8).items()}
        assert sum(expected.values()) == pytest.approx(samples, rel=1e-4)
        # Rare completions share a cell, so that each cell expects at least 5.
        rare = [ids for ids, n in expected.items() if n < 5]
        cells = [(counts.get(ids, 0), n) for ids, n in expected.items() if n >= 5]
        if rare:
            cells.append((sum(counts.get(ids, 0) for ids in rare), sum(expected[ids] for ids in rare)))
        assert len(cells) > 10
        statistic = sum((seen - n) ** 2 / n for seen, n in cells)
        # Mean d and variance 2d for d degrees of freedom; four standard deviations are less than one in a thousand.
        freedom = len(cells) - 1
        assert statistic < freedom + 4 * math.sqrt(2 * freedom)


def exact(model, prompt, vocab, temperature):
    """The probability of each completion of up to two tokens, where token 1 ends it."""

    def next_probs(ids):
        with torch.no_grad():
            return (model(torch.tensor([ids])).logits[0, -1].double() / temperature).softmax(-1).tolist()

    first = next_probs(prompt)
    out = {(1,): first[1]}
    for a, b in itertools.product(range(vocab), range(vocab)):
        if a != 1:
            out[a, b] = first[a] * next_probs((*prompt, a))[b]
    return out


@pytest.mark.parametrize(
    "default",
    [{"repetition_penalty": 5.0}, {"no_repeat_ngram_size": 1}, {"min_new_tokens": 12}, {"epsilon_cutoff": 0.5}],
)
def test_generate_ignores_the_models_generation_defaults(model, default, monkeypatch):
    plain = generate(model, TransformersGenerate(TOKENIZER))
    for name, value in default.items():
        monkeypatch.setattr(model.generation_config, name, value)
    assert [row.ids for row in generate(model, TransformersGenerate(TOKENIZER))] == [row.ids for row in plain]
    assert getattr(model.generation_config, next(iter(default))) == next(iter(default.values()))
