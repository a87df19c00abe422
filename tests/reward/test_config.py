"""The shipped choices of `reward`, and a user's own as the README has it."""

import csv
import re
import shlex
import sys
from pathlib import Path

import pytest

from r1lab.build import build_policy_parts, build_reward
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
