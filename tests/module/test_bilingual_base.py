from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir

from r1lab.build import make
from r1lab.entry import CONF, plain
from r1lab.model.bilingual import LANGUAGES
from r1lab.module.bilingual_base import after, consistency_by_language, measure_bilingual_base, step_accuracy
from r1lab.module.forced import SHARES
from r1lab.rollout.hf import CachedLoop
from r1lab.rollout.sampling import Sampling
from r1lab.task.bilingual import Bilingual
from r1lab.types import Completion, Prompt
from tests.module.test_drift import Counted


@pytest.fixture(scope="module")
def base():
    """An untrained policy, its tokenizer and task."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["model=tiny_bilingual_untrained", "task=bilingual"])
        policy, tokenizer, task = (plain(part) for part in (config.model.policy, config.model.tokenizer, config.task))
    tokenizer = make(tokenizer)
    return make(policy, seed=1), tokenizer, make(task, tokenizer=tokenizer)


def test_results_are_what_follows_the_equals_sign():
    ids = torch.tensor([[3, 9, 4, 9, 5], [9, 9, 1, 2, 9]])
    assert after(ids, 9).tolist() == [[False, False, True, False, True], [False, True, True, False, False]]


def test_an_untrained_policy_guesses_among_all_words(base):
    policy, tokenizer, task = base
    chains = [task.chain("validation", i) for i in range(20)]
    for language in LANGUAGES:
        # About one of 297 words.
        assert 0.001 < step_accuracy(policy, tokenizer, chains, task.text, language) < 0.02


def test_consistency_is_of_the_reasoning_by_the_language_of_the_prompt():
    def said(language, reasoning):
        return Prompt((1,), "", "", language=language), Completion((1,), f"<think> {reasoning} </think>", False)

    pairs = [
        said("en", "two plus 二"),  # two of three
        said("en", "two"),
        said("en", ","),  # no words: not counted
        said("zh", "二 加 one is"),
    ]
    found = consistency_by_language(*zip(*pairs, strict=True), Bilingual.vocabularies)
    assert found == {"en": pytest.approx((2 / 3 + 1) / 2), "zh": 0.5}


def test_what_the_gate_is_told(base, monkeypatch):
    monkeypatch.setattr("r1lab.module.bilingual_base.PROBLEMS", 12)
    policy, tokenizer, task = base
    head = Counted()
    module = SimpleNamespace(
        whole=lambda: policy,
        tokenizer=tokenizer,
        engine=CachedLoop(tokenizer),
        validation_sampling=Sampling(1.0, 6),
        evaluation_seed=1,
        head=head,
    )
    data = SimpleNamespace(task=task, documents=SimpleNamespace(hash=lambda: "of the corpus"))
    measured = measure_bilingual_base(module, data)
    assert list(measured["forced"]) == list(SHARES) and measured["corpus_sha256"] == "of the corpus"
    assert set(measured["results"]) == set(measured["consistency"]) == set(LANGUAGES)
    assert head.passes == len(LANGUAGES)
    assert measured["sampled"]["num_prompts"] == 12
