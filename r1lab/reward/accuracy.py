"""The accuracy reward: is the answer right, by the task's own rule (DeepSeek-R1, arXiv 2501.12948, section 2.1)."""

from collections.abc import Callable, Sequence

from r1lab.reward.format import parts_of
from r1lab.types import Completion, Prompt


class Accuracy:
    """`float(is_correct(prompt, answer))` for a completion with exactly one answer that was not truncated, else 0.0.

    Reasoning is not asked for: that is the format reward's part. An answer inside the reasoning is none
    (`r1lab.reward.format.Parts`). The answer reaches `is_correct` without the white space around it, and only when
    something is left. A checker that has a `batch` (N prompts, N answers -> N scores) is given all at once.
    """

    def __init__(self, is_correct: Callable[[Prompt, str], float | bool]):
        self.is_correct = is_correct

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[float]:
        """B prompts and their B completions -> B rewards."""
        pairs = zip(prompts, completions, strict=True)
        answers = [None if c.truncated else parts_of(prompt, c).answer for prompt, c in pairs]
        answered = [b for b, answer in enumerate(answers) if answer]
        scores = self._check([prompts[b] for b in answered], [answers[b] for b in answered])
        rewards = [0.0] * len(answers)
        for b, score in zip(answered, scores, strict=True):
            rewards[b] = float(score)
        return rewards

    def _check(self, prompts: list[Prompt], answers: list[str]) -> Sequence[float | bool]:
        batch = getattr(self.is_correct, "batch", None)
        if batch is not None:
            return batch(prompts, answers)
        return [self.is_correct(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
