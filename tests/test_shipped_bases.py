"""The bases that are shipped are what their experiments make: corpus, words, architecture, gate."""

import json

import pytest
from hydra import compose, initialize_config_dir

from r1lab.build import make
from r1lab.entry import CONF, plain
from r1lab.model.policy import load_policy, load_tokenizer, model_folder
from r1lab.module.bilingual_base import step_accuracy


@pytest.fixture(scope="module", params=["tiny", "tiny_bilingual"])
def shipped(request):
    """A base's name, and the config, tokenizer and task of the experiment that makes it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [f"experiment={request.param}_base"])
    tokenizer = make(plain(config.model.tokenizer))
    return request.param, config, tokenizer, make(plain(config.task), tokenizer=tokenizer)


def test_it_has_passed_its_gate_on_the_corpus_of_its_experiment(shipped):
    name, config, _, task = shipped
    with open(f"{model_folder(name)}/gate.json") as file:
        gate = json.load(file)
    assert gate["passed"] and not gate["failures"]
    assert gate["command"] == f"python -m r1lab.train experiment={name}_base seed={gate['seed']}"
    assert gate["corpus_sha256"] == make(plain(config.data.documents), task=task).hash()


def test_it_has_the_words_and_the_shape_of_its_experiment(shipped):
    name, config, tokenizer, _ = shipped
    assert load_tokenizer(name).get_vocab() == tokenizer.get_vocab()
    policy, fresh = load_policy(name, dtype="float32"), make(plain(config.model.policy), seed=0)
    assert {k: v.shape for k, v in policy.state_dict().items()} == {k: v.shape for k, v in fresh.state_dict().items()}


def test_the_bilingual_one_reckons_better_in_english(shipped):
    name, _, tokenizer, task = shipped
    if name != "tiny_bilingual":
        pytest.skip("of one language")
    policy, chains = load_policy(name, dtype="float32"), [task.chain("heldout", i) for i in range(64)]
    right = {language: step_accuracy(policy, tokenizer, chains, task.text, language) for language in ("en", "zh")}
    assert right["en"] > 0.9 and right["en"] - right["zh"] > 0.08
