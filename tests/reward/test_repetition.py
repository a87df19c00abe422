import pytest

from r1lab.reward.repetition import Repetition, repeated_ngrams
from r1lab.types import Completion, Prompt


@pytest.mark.parametrize(
    ("ids", "n", "share"),
    [
        ([], 2, 0.0),
        ([1], 2, 0.0),
        ([1, 2, 3], 2, 0.0),
        ([1, 2, 1, 2], 2, 1 / 3),  # 12, 21, 12
        ([5] * 101, 1, 100 / 101),
        ([5] * 101, 2, 0.99),
    ],
)
def test_share(ids, n, share):
    assert repeated_ngrams(ids, n) == pytest.approx(share)


def test_term():
    completions = [Completion((1, 2, 3), "", False), Completion((1, 1, 1), "", False)]
    assert Repetition(2)([Prompt((1,), "", "")] * 2, completions) == [0.0, -0.5]
    with pytest.raises(ValueError, match="reward.repetition.n"):
        Repetition(0)
