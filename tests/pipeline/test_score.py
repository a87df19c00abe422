import math

import pytest

from r1lab.pipeline.score import held_out, per_prompt, with_interval
from r1lab.types import Prompt


def test_the_mean_of_the_samples_that_it_applies_to():
    nan = float("nan")
    values = per_prompt([1.0, 0.0, nan, 0.5, nan, nan], 2)
    assert values[:2] == [0.5, 0.5] and math.isnan(values[2])


def test_an_interval_over_the_prompts_that_it_applies_to():
    scored = with_interval([0.0, 1.0, float("nan"), 1.0, 1.0])
    assert scored["value"] == 0.75 and scored["prompts"] == 4
    assert 0 <= scored["low"] <= 0.75 <= scored["high"] <= 1
    assert with_interval([float("nan")]) == {"value": None, "low": None, "high": None, "prompts": 0}
    assert with_interval([0.25] * 3)["low"] == pytest.approx(0.25)


class Repeating:
    """Seven prompts, over and over."""

    def sample(self, split, index):
        assert split == "heldout"
        return Prompt(ids=(), text=f"{index % 7}", answer="", index=index)


def test_each_prompt_is_scored_once():
    assert [prompt.index for prompt in held_out(Repeating(), 5)] == [0, 1, 2, 3, 4]
    assert [prompt.text for prompt in held_out(Repeating(), 100)] == [f"{n}" for n in range(7)]
