from dataclasses import replace

import pytest

from r1lab.reward.format import Format, Parts, split_completion
from r1lab.types import Completion, Prompt

PROMPT = Prompt(ids=(1,), text="q", answer="7")
GOOD = "<think> 3 + 4 = 7 </think> <answer> 7 </answer>"


def score(text: str, truncated: bool = False, opened: bool = False) -> float:
    prompt = replace(PROMPT, text=PROMPT.text + " <think> ") if opened else PROMPT
    return Format()([prompt], [Completion((1,), text, truncated)])[0]


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "<think>a</think><answer>b</answer>",
        "\n <think>\n line 1\n\n line 2 \n</think>\n\n<answer>\n7\n</answer>\n",
        # Everything but the four tags is content: look-alikes, other tags, and lone brackets too.
        "<think> <b>1 < 2</b> <Think> <\u0442hink> \uff1cthink\uff1e </think> <answer> \u0667 </answer>",
        "<think> I will think and answer </think> <answer> < > </answer>",
    ],
)
def test_wellformed(text):
    assert score(text) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "<answer> 7 </answer>",
        "<think> a </think>",
        # Text outside.
        GOOD + " done",
        "So: " + GOOD,
        "<think> a </think> therefore <answer> 7 </answer>",
        GOOD + "\u200b",
        # Repeated.
        GOOD + " " + GOOD,
        "<think> a </think> <think> b </think> <answer> 7 </answer>",
        "<think> a </think> <answer> 6 </answer> <answer> 7 </answer>",
        "<think> a </think> </think> <answer> 7 </answer>",
        # Nested.
        "<think> <think> a </think> </think> <answer> 7 </answer>",
        "<think> a </think> <answer> <answer> 7 </answer> </answer>",
        "<think> a <answer> 6 </answer> </think> <answer> 7 </answer>",
        "<think> a <answer> 7 </answer> </think>",
        "<think> a <answer> b </think> 7 </answer>",
        "<answer> <think> a </think> 7 </answer>",
        # Out of order.
        "<answer> 7 </answer> <think> a </think>",
        "</think> a <think> <answer> 7 </answer>",
        "<think> a </think> </answer> 7 <answer>",
        # Empty, also with characters that cannot be seen.
        "<think></think> <answer> 7 </answer>",
        "<think> a </think> <answer>  \n </answer>",
        "<think> \u200b\u2060\ufeff </think> <answer> 7 </answer>",
        "<think> a </think> <answer>\u00a0\u200d</answer>",
        *(f"<think> {blank} </think> <answer> 7 </answer>" for blank in "\u2800\u3164\u115f\u1160\uffa0\ufe0f\u0301"),
        # Tags that only look right.
        "<Think> a </Think> <answer> 7 </answer>",
        "< think > a </ think > <answer> 7 </answer>",
        "<th\u0456nk> a </th\u0456nk> <answer> 7 </answer>",
        "\uff1cthink\uff1e a \uff1c/think\uff1e <answer> 7 </answer>",
        # Cut off.
        "<think> a </think> <answer> 7",
        "<think> a </think> <answer> 7 </answer",
        "<think> a",
    ],
)
def test_malformed(text):
    assert score(text) == 0.0
    assert not split_completion(text).wellformed


def test_truncated_is_worth_nothing_even_when_the_text_is_whole():
    assert score(GOOD, truncated=True) == 0.0


def test_graded_counts_tags_that_stand_there_once():
    def graded(text, prompt=PROMPT, truncated=False):
        return Format(graded=True)([prompt], [Completion((1,), text, truncated)])[0]

    assert graded(GOOD) == 1.0
    assert graded(GOOD, truncated=True) == 0.5
    assert graded("7") == 0.0
    assert graded("<answer> 7 </answer>") == 0.25
    assert graded("<answer> <answer> 7 </answer>") == 0.125  # a repeated tag counts for nothing
    assert graded("<think></think><answer></answer>") == 0.0
    assert graded("<think> \u2800 </think> <answer> 7 </answer>") == 0.25
    assert graded("</answer> </think> <answer> <think>") == 0.125  # out of order: only the first that is asked counts
    assert graded("<think> a <answer> 7 </answer>", truncated=True) == 0.375
    opened = replace(PROMPT, text="q <think>")
    assert graded("a </think> <answer> 7 </answer>", opened) == 1.0
    assert graded("<think> a </think>", opened) == 0.5 / 3
    assert graded(" </think> <answer> </answer>", opened) == 0.0


def test_opened_prompt():
    assert score(" a </think> <answer> 7 </answer>", opened=True) == 1.0
    assert score(" a </think> <answer> 7 </answer>") == 0.0
    # The prompt has opened the reasoning already; opening it again is a repeated tag.
    assert score(GOOD, opened=True) == 0.0
    assert score(" </think> <answer> 7 </answer>", opened=True) == 0.0


def test_parts():
    assert split_completion(GOOD) == Parts("3 + 4 = 7", "7", True)
    assert split_completion("<answer> 7 </answer>") == Parts(None, "7", False)
    for text in ("<think> a <answer> 7 </answer> b", "<think> a </think> <think> <answer> 7 </answer>"):
        assert split_completion(text).answer is None
    assert split_completion("a <answer> 7 </answer>", opened=True).answer is None
    assert split_completion("a </think> b <answer> 7 </answer> c").answer == "7"
    assert split_completion("<think> a </think> b") == Parts("a", None, False)
    assert split_completion("a </think> <answer> 7 </answer>", opened=True) == Parts("a", "7", True)
    assert split_completion("<think> a <answer> 7 </answer> </think>") == Parts("a <answer> 7 </answer>", None, False)
    assert split_completion("<think> a </think> <answer></answer>") == Parts("a", "", False)
    # The tags may not share characters: `</think>` begins behind the end of `<think>`.
    assert split_completion("<think></think>").reasoning == ""


def test_long_unclosed_text_takes_linear_time():
    assert score("<think>" * 20000) == score("<think> " + "a\n" * 100000) == score(" " * 100000) == 0.0


def test_one_reward_a_completion_in_order():
    completions = [Completion((1,), text, False) for text in (GOOD, "7", GOOD)]
    assert Format()([PROMPT] * 3, completions) == [1.0, 0.0, 1.0]
