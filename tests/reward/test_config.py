"""The shipped choices of `reward`, and a user's own as the README has it."""

import csv
import re
import shlex
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification, LlamaConfig

from r1lab.build import build_policy_parts, build_reward
from r1lab.model.tiny import tiny_tokenizer
from r1lab.types import Completion
from tests.conftest import compose_run

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.parametrize("choice", ["accuracy", "exact", "numeric", "choice", "countdown", "math", "isolated"])
def test_choices_of_accuracy_are_built(choice, tmp_path):
    if choice == "math":
        pytest.importorskip("math_verify")
    config = compose_run(tmp_path, f"reward=[{choice},format]")
    parts = build_policy_parts(config)
    reward = build_reward(config["reward"], parts["task"], parts["tokenizer"])
    own = type(parts["task"]).is_correct
    assert (getattr(reward.terms["accuracy"].is_correct, "__func__", None) is own) == (choice == "accuracy")
    prompt = parts["task"].sample("train", 0)
    if choice in ("exact", "numeric", "math"):
        assert reward.terms["accuracy"].is_correct(prompt, prompt.answer) == 1.0


VOCABULARIES = "reward.language_consistency.vocabularies={en: [plus], zz: [mais]}"


@pytest.mark.parametrize(
    ("choice", "overrides"),
    [
        ("format", []),
        ("language_consistency", []),
        ("vocabulary_consistency", [VOCABULARIES]),
        ("length", []),
        ("cosine", []),
        ("repetition", []),
        ("code", ["reward.code.allow_unsandboxed=true"]),
    ],
)
def test_other_choices_are_built_and_score(choice, overrides, tmp_path):
    config = compose_run(tmp_path, f"reward=[accuracy,{choice}]", *overrides)
    parts = build_policy_parts(config)
    reward = build_reward(config["reward"], parts["task"], parts["tokenizer"])
    prompt = parts["task"].sample("train", 0)
    text = f"<think> 1 plus 2 </think> <answer> {prompt.answer} </answer>"
    rewards = reward([prompt] * 2, [Completion((1, 2, 3), text, False), Completion((1, 2, 3), "", True)])
    assert len(rewards.terms) == 2
    assert rewards.terms["accuracy"] == [1.0, 0.0]
    assert reward.weights["accuracy"] == (choice != "cosine")


def test_a_reward_model_speaks_in_the_last_quarter(tmp_path):
    config = LlamaConfig(
        vocab_size=121, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        num_labels=1, pad_token_id=0, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    config = compose_run(tmp_path, "reward=[accuracy,model]", f"reward.model.scorer.name={tmp_path}")
    parts = build_policy_parts(config)
    reward = build_reward(config["reward"], parts["task"], parts["tokenizer"], max_steps=1700)
    assert [reward.scheduled(step)["model"] for step in (0, 1274, 1275, 1699)] == [0.0, 0.0, 1.0, 1.0]
    prompt = parts["task"].sample("train", 0)
    value = reward([prompt], [Completion((1,), "<answer> 7 </answer>", True)]).terms["model"][0]
    assert isinstance(value, float)


def test_the_readmes_own_reward_runs(train_small, tmp_path, monkeypatch):
    text = README.read_text()
    source = re.search(r"```python\n(# my_rewards.py\n.*?)```", text, re.DOTALL)[1]
    command = shlex.split(re.search(r"^python .*my_rewards\.brief.*$", text, re.MULTILINE)[0])
    schedule = re.search(r"`'(reward\.format\.weight=.*?)'`", text)[1]
    (tmp_path / "my_rewards.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)  # where `python -m` starts
    options = ("evaluate=false", "callback.samples.shown=0")
    folder = train_small(tmp_path / "run", *command[3:], schedule, *options)
    sys.modules.pop("my_rewards")
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    assert all(0 <= float(row["reward/brief"]) <= 1 for row in rows)
    assert [float(row["reward/format_weight"]) for row in rows] == [1.0, 1.0 - 0.9 / 50]
