import re
import sys

import pytest

from r1lab.build import build_reward
from r1lab.callback.wandb_logger import wandb_logger
from r1lab.model.adapter import with_adapters
from r1lab.model.quantize import bitsandbytes
from r1lab.model.tiny import tiny_tokenizer
from r1lab.packages import needed
from r1lab.reward import math_equal
from r1lab.task.reasoning_gym import ReasoningGym
from r1lab.task.template import Template

ADAPTER = {"rank": 2, "alpha": 4.0, "targets": "all-linear", "quantize": None, "seed": 0}


def reasoning_gym():
    ReasoningGym(None, Template("{question}"), "chain_sum")


def math():
    math_equal._library.cache_clear()
    math_equal.MathEqual()


ASKED_BY = {
    "reasoning_gym": reasoning_gym,
    "math_verify": math,
    "bitsandbytes": lambda: bitsandbytes("scorer.quantize=8bit"),
    "peft": lambda: with_adapters(None, **ADAPTER),
    "wandb": lambda: wandb_logger(save_dir="unused", offline=True, resumed=None),
}


@pytest.mark.parametrize("package", ASKED_BY)
def test_the_module_that_is_missing_is_named(package, tmp_path, monkeypatch):
    (tmp_path / f"{package}.py").write_text("import inner.part")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, package, raising=False)
    named = package.replace("_", "-")
    with pytest.raises(
        ImportError, match=f"{named} cannot be imported, as it imports inner, which is missing; "
    ) as raised:
        ASKED_BY[package]()
    assert "\n" not in str(raised.value) and "needs the package" not in str(raised.value)


def test_reasons_of_a_failed_import():
    with pytest.raises(ImportError, match=re.escape("model=x needs the package not-there: pip install not-there")):
        with needed("model=x", "not-there", "pip install not-there"):
            import not_there  # noqa: F401
    with pytest.raises(
        ImportError, match="model=x: other cannot be imported, as cannot import name 'nothing'.*; do that"
    ):
        with needed("model=x", "other", "do that"):
            from json import nothing  # noqa: F401
    with pytest.raises(ValueError, match="as it is"), needed("model=x", "other", "do that"):
        raise ValueError("as it is")


def test_a_reward_file_is_not_blamed_for_what_it_imports(tmp_path, monkeypatch):
    (tmp_path / "own_reward.py").write_text("import not_there\ndef term(prompts): return [0.0]\n")
    monkeypatch.syspath_prepend(tmp_path)
    task = type("Task", (), {"is_correct": None})()
    for target, own in (("own_reward.term", False), ("no_such_file.term", True)):
        with pytest.raises(ValueError, match="not_there|no_such_file") as raised:
            build_reward({"mine": {"_target_": target, "weight": 1.0}}, task, tiny_tokenizer())
        assert ("your own file must lie in the folder" in str(raised.value)) == own
