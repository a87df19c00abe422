import pytest

from r1lab.reward.accuracy import Accuracy
from r1lab.reward.checker import Numeric
from r1lab.types import Completion, Prompt

PROMPT = Prompt(ids=(1,), text="q", answer="7")


def score(text: str, truncated: bool = False) -> float:
    accuracy = Accuracy(is_correct=lambda prompt, answer: answer == prompt.answer)
    return accuracy([PROMPT], [Completion((1,), text, truncated)])[0]


@pytest.mark.parametrize(
    "text",
    [
        "<think> 3 + 4 </think> <answer> 7 </answer>",
        "<answer>\n7\n</answer>",
        # Reasoning and what stands outside are the format reward's part.
        "3 + 4 = <answer>7</answer> I hope",
        "3 + 4 </think> <answer> 7 </answer>",
    ],
)
def test_right(text):
    assert score(text) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "<answer> 8 </answer>",
        "<think> 7 </think>",
        # Two answers, of which one is right: guessing twice must not pay.
        "<answer> 7 </answer> <answer> 7 </answer>",
        "<answer> 8 </answer> <answer> 7 </answer>",
        "<think> <answer> 7 </answer> </think> <answer> 8 </answer>",
        "<answer> <answer> 7 </answer> </answer>",
        "<answer> 7 </answer> </answer>",
        # Within the reasoning.
        "<think> a <answer> 7 </answer> </think>",
        "<think> 3 + 4 <answer> 7 </answer>",
        "<answer> 7 </answer> <think> a </think>",
        "<answer> <think> 7 </think> </answer>",
        # Broken tags.
        "</answer> 7 <answer>",
        "<answer> 7",
        "7 </answer>",
        "<Answer> 7 </Answer>",
        "<\u0430nswer> 7 </\u0430nswer>",
        # Look-alikes of the digit.
        "<answer> \uff17 </answer>",
        "<answer> 7\u200b </answer>",
    ],
)
def test_wrong(text):
    assert score(text) == 0.0


def test_truncated_is_wrong():
    assert score("<answer> 7 </answer>", truncated=True) == 0.0


def test_empty_answers_never_reach_the_task():
    def fails(prompt, answer):
        raise AssertionError(answer)

    completions = [Completion((1,), text, False) for text in ("<answer></answer>", "<answer> \n </answer>", "no")]
    assert Accuracy(fails)([PROMPT] * 3, completions) == [0.0, 0.0, 0.0]


def test_partial_scores_and_each_prompt_with_its_own_completion():
    prompts = [Prompt(ids=(1,), text="q", answer=a) for a in ("0.25", "0.5")]
    completions = [Completion((1,), f"<answer>{a}</answer>", False) for a in ("x", "y")]
    seen = []

    def is_correct(prompt, answer):
        seen.append((prompt.answer, answer))
        return float(prompt.answer)

    assert Accuracy(is_correct)(prompts, completions) == [0.25, 0.5]
    assert seen == [("0.25", "x"), ("0.5", "y")]
    assert Accuracy(is_correct, partial=False)(prompts, completions) == [0.0, 0.0]
    assert Accuracy(lambda prompt, answer: True, partial=False)(prompts, completions) == [1.0, 1.0]


def test_a_checker_of_many_is_given_all_answers_at_once():
    class Checker:
        def batch(self, prompts, answers):
            return [answer == prompt.answer for prompt, answer in zip(prompts, answers, strict=True)]

    completions = [Completion((1,), text, False) for text in ("<answer> 7 </answer>", "7", "<answer> 8 </answer>")]
    assert Accuracy(Checker())([PROMPT] * 3, completions) == [1.0, 0.0, 0.0]


def test_it_is_for_prompts_of_some_kinds():
    prompts = [Prompt((1,), "", "7", kind=kind) for kind in ("sum", "talk", "sum")]
    completions = [Completion((1,), f"<answer> {answer} </answer>", False) for answer in ("7", "7", "8")]

    def right(prompt, answer):
        return answer == prompt.answer

    assert Accuracy(right, kinds=["sum"])(prompts, completions) == [1.0, None, 0.0]
    assert Accuracy(right)(prompts, completions) == [1.0, 1.0, 0.0]


def test_a_checker_that_raises_for_a_prompt_is_found_without_completions():
    accuracy = Accuracy(Numeric(), kinds=["sum"])
    accuracy.check_prompts([Prompt((1,), "", "7", kind="sum"), Prompt((1,), "", "seven", kind="other")])
    with pytest.raises(ValueError, match="'seven' is no number"):
        accuracy.check_prompts([Prompt((1,), "", "7", kind="sum"), Prompt((1,), "", "seven", kind="sum")])
