"""A penalty on repetition: how many of a completion's n-grams stood there before."""

from collections.abc import Sequence

from r1lab.types import Completion, Prompt


def repeated_ngrams(ids: Sequence[int], n: int) -> float:
    """seq-rep-n (Welleck et al., 1908.04319): 1 - distinct n-grams / all n-grams, in [0, 1).

    0 where there are fewer than n tokens.
    """
    ngrams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


class Repetition:
    """`-repeated_ngrams` of each completion's tokens, in (-1, 0]; its weight is how much a full loop costs."""

    def __init__(self, n: int):
        if n < 1:
            raise ValueError(f"reward.repetition.n must be at least 1, got {n}")
        self.n = n

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[float]:
        """B prompts and their B completions -> B rewards."""
        return [0.0 - repeated_ngrams(c.ids, self.n) for c in completions]
