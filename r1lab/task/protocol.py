"""What every task does: prompts on demand, and the check of an answer."""

from typing import Protocol

from r1lab.types import Prompt

SPLITS = ("train", "validation", "heldout", "harder")


class Task(Protocol):
    """Prompts with checkable answers.

    A prompt follows from (split, index) alone, whatever was asked for before, so that ranks, workers and resumed runs
    see the same ones. The splits `SPLITS` share no question; `harder` holds longer or larger problems than the rest.
    """

    name: str
    splits: tuple[str, ...]  # those of `SPLITS` that it has; a task without harder problems leaves `harder` out

    def sample(self, split: str, index: int) -> Prompt:
        """The prompt of number `index` (any int from 0) of a split. Raises ValueError for an unknown split."""
        ...

    def is_correct(self, prompt: Prompt, answer: str) -> float | bool:
        """The score of an answer as the policy wrote it, without its tags: 1 is right, 0 wrong, between is partial."""
        ...
