import asyncio

import pytest

from r1lab.reward.columns import by_name
from r1lab.types import Completion, Prompt

PROMPTS = [
    Prompt((1,), "q", "7", kind="sum", columns={"level": 1, "source": "a"}),
    Prompt((1,), "q", "8", kind="product", columns={"source": "b"}),
]
COMPLETIONS = [Completion((1,), "7", False), Completion((1,), "9", False)]


def test_named_arguments():
    def term(completions, answer, level, limit, **columns):
        return [c.text == a for c, a in zip(completions, answer, strict=True)], level, limit, columns

    got = by_name(term, "mine", {"limit": 3})(PROMPTS, COMPLETIONS)
    assert got == ([True, False], [1, None], 3, {"source": ["a", "b"]})


def test_the_usual_form_is_left_as_it_is():
    def term(prompts, completions):
        return [0.0] * len(prompts)

    assert by_name(term, "mine") is term


def test_objects_and_coroutines():
    class Term:
        async def __call__(self, kind):
            return [k == "sum" for k in kind]

    assert asyncio.run(by_name(Term(), "mine")(PROMPTS, COMPLETIONS)) == [True, False]


def test_a_default_stands_in_for_a_column_that_no_prompt_has():
    def term(completions, tests=None, level=0):
        return tests, level

    assert by_name(term, "mine")(PROMPTS, COMPLETIONS) == (None, [1, None])


def test_config_goes_before_columns():
    assert by_name(lambda level: level, "mine", {"level": 5})(PROMPTS, COMPLETIONS) == 5


def test_a_column_that_is_not_there():
    with pytest.raises(ValueError, match=r"'levle', which is no column of these prompts; there are .*level, source"):
        by_name(lambda levle: levle, "mine")(PROMPTS, COMPLETIONS)
    assert by_name(lambda levle: levle, "mine")([], []) == []


def test_a_setting_that_is_not_taken():
    with pytest.raises(ValueError, match=r"reward.mine has no argument limt; it takes completions, limit"):
        by_name(lambda completions, limit=1: 0, "mine", {"limt": 3})


def test_prompts_are_checked_before_there_are_completions():
    class Term:
        def __call__(self, completions, level):
            raise AssertionError("scored")

        def check_prompts(self, prompts):
            raise ValueError(f"{len(prompts)} prompts")

    with pytest.raises(ValueError, match="asks for 'levle', which is no column"):
        by_name(lambda levle: levle, "mine").check_prompts(PROMPTS)
    by_name(lambda completions, level: 1 / 0, "mine").check_prompts(PROMPTS)
    with pytest.raises(ValueError, match=f"{len(PROMPTS)} prompts"):
        by_name(Term(), "mine").check_prompts(PROMPTS)
