"""The accuracy reward: is the answer right, by the task's own rule (DeepSeek-R1, arXiv 2501.12948, section 2.1)."""

from collections.abc import Callable, Sequence

from r1lab.reward.format import parts_of
from r1lab.types import Answer, Completion, Prompt


class Accuracy:
    """`float(is_correct(prompt, answer))` for a completion with exactly one answer that was not truncated, else 0.0.

    Reasoning is not asked for: that is the format reward's part. An answer inside the reasoning is none
    (`r1lab.reward.format.Parts`). The answer reaches `is_correct` without the white space around it, and only when
    something is left, as an `Answer` that knows the whole response. A checker that has a `batch` (N prompts, N answers
    -> N scores) is given all at once.

    partial: scores between 0 and 1 count as they are; else as 0. Some scorers of reasoning-gym give part of the score
        to any answer that holds the right one somewhere.
    kinds: of prompts that it is for (`Prompt.kind`); to others it does not apply. None: for all.
    """

    def __init__(
        self,
        is_correct: Callable[[Prompt, str], float | bool],
        partial: bool = True,
        kinds: Sequence[str] | None = None,
    ):
        self.is_correct, self.partial, self.kinds = is_correct, partial, kinds

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[float | None]:
        """B prompts and their B completions -> B rewards, None for prompts of other kinds."""
        if self.kinds is not None:
            rows = [b for b, prompt in enumerate(prompts) if prompt.kind in self.kinds]
            scores = self._scores([prompts[b] for b in rows], [completions[b] for b in rows])
            applies = dict(zip(rows, scores, strict=True))
            return [applies.get(b) for b in range(len(prompts))]
        return self._scores(prompts, completions)

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Raise what the checker raises for a prompt whatever the answer is, such as a right answer of the wrong form.

        A checker that scores a batch is not asked.
        """
        if not hasattr(self.is_correct, "batch"):
            for prompt in prompts:
                if self.kinds is None or prompt.kind in self.kinds:
                    self.is_correct(prompt, Answer("0", "<think> 0 </think> <answer> 0 </answer>"))

    def _scores(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[float]:
        pairs = zip(prompts, completions, strict=True)
        answers = [None if c.truncated else _answer(prompt, c) for prompt, c in pairs]
        answered = [b for b, answer in enumerate(answers) if answer]
        scores = self._check([prompts[b] for b in answered], [answers[b] for b in answered])
        rewards = [0.0] * len(answers)
        for b, score in zip(answered, scores, strict=True):
            rewards[b] = float(score) if self.partial else float(score >= 1)
        return rewards

    def _check(self, prompts: list[Prompt], answers: list[str]) -> Sequence[float | bool]:
        batch = getattr(self.is_correct, "batch", None)
        if batch is not None:
            return batch(prompts, answers)
        return [self.is_correct(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]


def _answer(prompt: Prompt, completion: Completion) -> Answer | None:
    answer = parts_of(prompt, completion).answer
    return Answer(answer, completion.text) if answer else None
