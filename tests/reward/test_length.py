import pytest

from r1lab.reward.length import Cosine, SoftOverlong, cosine, soft_overlong
from r1lab.types import Completion, Prompt

PROMPT = Prompt((1,), "q", "7")


def test_soft_overlong():
    # DAPO's: no punishment up to 16384 of 20480 tokens.
    assert [soft_overlong(n, 20480, 4096) for n in (0, 16384, 18432, 20480, 30000)] == [0.0, 0.0, -0.5, -1.0, -1.0]
    term = SoftOverlong(max_length=10, cache=0.2)
    assert term([PROMPT] * 3, [Completion((1,) * n, "", False) for n in (8, 9, 10)]) == [0.0, -0.5, -1.0]
    for cache in (0, 1.1):
        with pytest.raises(ValueError, match="reward.length.cache"):
            SoftOverlong(10, cache)


def test_cosine():
    assert [cosine(n, 100, 2.0, 1.0) for n in (0, 50, 100, 200)] == pytest.approx([2.0, 1.5, 1.0, 1.0])
    term = Cosine(lambda prompt, answer: answer == prompt.answer, 10, right=[2, 1], wrong=[-10, 0], exceeded=-10)
    completions = [
        Completion((1,) * 5, "<answer> 7 </answer>", False),
        Completion((1,) * 5, "<answer> 8 </answer>", False),
        Completion((1,) * 10, "<answer> 8 </answer>", False),
        Completion((1,) * 10, "<answer> 7 </answer>", True),
    ]
    assert term([PROMPT] * 4, completions) == pytest.approx([1.5, -5.0, 0.0, -10.0])
    with pytest.raises(ValueError, match="reward.cosine.right"):
        Cosine(None, 10, right=[1], wrong=[0, 0], exceeded=0)
