import pytest

from r1lab.analysis.samples import most_varied_group, some_completions, written_steps


def written(step, prompt_index, *texts_and_rewards):
    """A group as samples.jsonl holds it."""
    return [
        {
            "step": step,
            "prompt": f"prompt {prompt_index}",
            "prompt_index": prompt_index,
            "kind": "arithmetic",
            "answer": "7",
            "number": number,
            "completion": text,
            "length": len(text),
            "truncated": False,
            "rewards": {"accuracy": reward, "format": 1.0},
            "reward": reward,
            "advantage": reward - 0.5,
        }
        for number, (text, reward) in enumerate(texts_and_rewards)
    ]


SAMPLES = [
    *written(10, 2, ("e", 1.0), ("f", 1.0)),
    *written(1, 0, ("a", 0.0), ("a", 0.0), ("b", 0.1)),
    *written(1, 1, ("a", 0.0), ("c", 1.0), ("d", 0.0)),
]


def test_steps_in_order():
    assert written_steps(SAMPLES) == [1, 10]
    assert written_steps([]) == []


def test_some_completions_of_a_step_are_of_different_prompts_and_texts():
    table = some_completions(SAMPLES, [1, 10], 3)
    # Step 1: number 0 of both prompts, then number 1, whose first is a repetition.
    assert list(zip(table["step"], table["prompt"], table["completion"], strict=True)) == [
        (1, "prompt 0", "a"),
        (1, "prompt 1", "a"),
        (1, "prompt 1", "c"),
        (10, "prompt 2", "e"),
        (10, "prompt 2", "f"),
    ]
    assert some_completions(SAMPLES, [10], 1)["completion"].tolist() == ["e"]
    assert some_completions([], [1], 1).empty


def test_the_group_whose_rewards_differ_most():
    # Spreads: 0 at step 10; of (0, 0, .1) and of (0, 1, 0) at step 1.
    table = most_varied_group(SAMPLES)
    assert table.attrs == {"step": 1, "prompt": "prompt 1", "answer": "7"}
    assert table.columns.tolist() == ["completion", "accuracy", "format", "reward", "advantage"]
    assert table["completion"].tolist() == ["a", "c", "d"]
    assert table["reward"].tolist() == [0.0, 1.0, 0.0] and table["advantage"].tolist() == [-0.5, 0.5, -0.5]
    without = [{**SAMPLES[0], "prompt_index": 99, "reward": None}]
    assert most_varied_group([*without, *SAMPLES]).attrs == table.attrs
    with pytest.raises(ValueError, match="no samples"):
        most_varied_group([])
