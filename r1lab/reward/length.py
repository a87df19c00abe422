"""Rewards of length, in tokens."""

import math
from collections.abc import Callable, Sequence

from r1lab.reward.accuracy import Accuracy
from r1lab.types import Completion, Prompt


def soft_overlong(length: int, max_length: int, cache: float) -> float:
    """DAPO's soft punishment of over-long completions (2503.14476, equation 13), from 0 down to -1.

    0 up to `max_length - cache` tokens, then linear, -1 from `max_length` on.
    """
    return min(0.0, max(-1.0, (max_length - cache - length) / cache))


class SoftOverlong:
    """`soft_overlong` of each completion.

    Args:
        max_length: tokens that sampling allows.
        cache: the share of them over which the punishment grows, above 0 and up to 1.
    """

    def __init__(self, max_length: int, cache: float):
        if not 0 < cache <= 1:
            raise ValueError(f"reward.length.cache is a share of max_length, above 0 and up to 1, got {cache}")
        self.max_length, self.cache = max_length, cache * max_length

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[float]:
        """B prompts and their B completions -> B rewards in [-1, 0]."""
        return [soft_overlong(len(c.ids), self.max_length, self.cache) for c in completions]


def cosine(length: int, max_length: int, shortest: float, longest: float) -> float:
    """From `shortest` at no tokens to `longest` at `max_length`, along half a cosine (2502.03373, CosFn)."""
    return longest + (shortest - longest) * (1 + math.cos(math.pi * min(length / max_length, 1))) / 2


class Cosine:
    """The cosine reward of Yeo et al. (2502.03373): right answers earn more when short, wrong ones cost
    less when long.

    It holds correctness and takes the place of the accuracy reward.

    Args:
        is_correct: the task's checker.
        max_length: that sampling allows.
        right, wrong: rewards at no tokens and at `max_length`, for right (score at least 1) and wrong answers.
        exceeded: of truncated completions.
    """

    def __init__(
        self,
        is_correct: Callable[[Prompt, str], float],
        max_length: int,
        right: Sequence[float],
        wrong: Sequence[float],
        exceeded: float,
    ):
        for name, ends in (("right", right), ("wrong", wrong)):
            if len(ends) != 2:
                raise ValueError(f"reward.cosine.{name} must be [at no tokens, at max_length], got {ends}")
        self.accuracy, self.max_length = Accuracy(is_correct), max_length
        self.right, self.wrong, self.exceeded = tuple(right), tuple(wrong), exceeded

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[float]:
        """B prompts and their B completions -> B rewards."""
        scores = self.accuracy(prompts, completions)
        return [self._reward(score >= 1, c) for score, c in zip(scores, completions, strict=True)]

    def _reward(self, right: bool, completion: Completion) -> float:
        if completion.truncated:
            return self.exceeded
        return cosine(len(completion.ids), self.max_length, *(self.right if right else self.wrong))
