"""The records that one stage hands to the next, and the legend of the shape letters.

Shapes: P prompts, G completions of one prompt (the group), B = P * G, S prompt length, T completion length,
V vocabulary, H width, E experts. Completions are ordered by prompt: row b belongs to prompt b // G.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Prompt:
    """A question with its template, ready to be sampled from.

    `index` is the number that made it within its split: it keys the randomness of sampling.
    `columns` holds whatever else the task's checker or a reward needs (dataset columns).
    """

    ids: tuple[int, ...]
    text: str
    answer: str
    index: int = 0
    kind: str = ""
    language: str = "en"
    difficulty: int = 0
    columns: Mapping[str, Any] = field(default_factory=dict)


class Answer(str):
    """An answer as a checker gets it. `response` is all that the policy wrote, for checkers that judge the whole."""

    response: str

    def __new__(cls, answer: str, response: str):
        made = super().__new__(cls, answer)
        made.response = response
        return made

    def __getnewargs__(self) -> tuple[str, str]:
        return str(self), self.response


@dataclass(frozen=True)
class TaughtCompletion:
    """Ids of a prompt [S] and of a completion [T] that a student is taught on, whoever wrote it, EOS included.

    `top_ids` and `top_logprobs` [T][k]: the teacher's likeliest tokens at each place and their logprobs, where stored.
    """

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    top_ids: Sequence[Sequence[int]] = ()
    top_logprobs: Sequence[Sequence[float]] = ()


TOP = ("top_ids", "top_logprobs")  # of it, and columns of what `r1lab.generate` stores with logprobs=top_k


@dataclass(frozen=True)
class Completion:
    """What the policy wrote after a prompt, the end-of-sequence token included when it wrote one.

    `truncated` is True when the length limit ended it. `sampling_logprobs` are the engine's own, one a token,
    at the sampling temperature. `policy_version` is the optimizer step of the weights that sampled it. `experts`, where
    they were recorded: int16 [S+T-1,L,K], those of L mixtures that each token but the last went to, the prompt's first.
    """

    ids: tuple[int, ...]
    text: str
    truncated: bool
    sampling_logprobs: tuple[float, ...] = ()
    policy_version: int = 0
    experts: "Tensor | None" = None
