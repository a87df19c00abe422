"""The accuracy reward: is the answer right, by the task's own rule (DeepSeek-R1, arXiv 2501.12948, section 2.1)."""

from collections.abc import Callable, Sequence

from r1lab.reward.format import parts_of
from r1lab.types import Completion, Prompt


class Accuracy:
    """`float(is_correct(prompt, answer))` for a completion with exactly one answer that was not truncated, else 0.0.

    Reasoning is not asked for: that is the format reward's part. An answer inside the reasoning is none
    (`r1lab.reward.format.Parts`). The answer reaches `is_correct` without the white space around it, and only when
    something is left.
    """

    def __init__(self, is_correct: Callable[[Prompt, str], float | bool]):
        self.is_correct = is_correct

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[float]:
        """B prompts and their B completions -> B rewards."""
        return [self._score(prompt, c) for prompt, c in zip(prompts, completions, strict=True)]

    def _score(self, prompt: Prompt, completion: Completion) -> float:
        answer = None if completion.truncated else parts_of(prompt, completion).answer
        return float(self.is_correct(prompt, answer)) if answer else 0.0
