"""The shipped choices of `reward`, and a user's own as the README has it."""

import csv
import re
import shlex
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


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
