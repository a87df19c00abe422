"""The format reward, and the one definition of where a completion's reasoning and answer are.

DeepSeek-R1 (arXiv 2501.12948, section 2.1) rewards reasoning inside `<think>` and `</think>`; its template asks for
`<think> reasoning </think> <answer> answer </answer>`. Tags are these exact characters: other case, inner spaces and
look-alikes from other alphabets are ordinary text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from r1lab.types import Completion, Prompt

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"

_WELLFORMED = re.compile(r"\s*<think>(.*)</think>\s*<answer>(.*)</answer>\s*", re.DOTALL)


@dataclass(frozen=True)
class Parts:
    """What a completion consists of, white space around each part removed.

    reasoning: between the only `<think>` and the only `</think>` after it, else None.
    answer: between the only `<answer>` and the only `</answer>` after it, else None. An answer with a think tag inside
        or behind it stands within the reasoning and is none.
    wellformed: the text is exactly reasoning, then answer, both with visible content, and white space outside.
    """

    reasoning: str | None
    answer: str | None
    wellformed: bool


def split_completion(text: str, opened: bool = False) -> Parts:
    """Find reasoning and answer in a completion's text.

    Args:
        text: what the policy wrote, without the end-of-sequence token.
        opened: the prompt ends with `<think>`, so that the completion starts inside the reasoning.
    """
    if opened:
        text = THINK_OPEN + text
    reasoning = _only_between(text, THINK_OPEN, THINK_CLOSE)
    answer = _only_between(text, ANSWER_OPEN, ANSWER_CLOSE)
    if answer is not None and max(text.rfind(THINK_OPEN), text.rfind(THINK_CLOSE)) > text.find(ANSWER_OPEN):
        answer = None
    wellformed = (
        reasoning is not None
        and answer is not None
        and _visible(reasoning)
        and _visible(answer)
        and _WELLFORMED.fullmatch(text) is not None
    )
    return Parts(reasoning, answer, wellformed)


class Format:
    """1.0 for a completion that is exactly `<think>...</think> <answer>...</answer>` and was not truncated, else 0.0.

    Each tag once and in this order, both contents visible, only white space outside. `opened` is for templates whose
    text ends with `<think>`: the completion must then not open it again.
    """

    def __init__(self, opened: bool = False):
        self.opened = opened

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[float]:
        """B prompts and their B completions -> B rewards."""
        return [float(not c.truncated and split_completion(c.text, self.opened).wellformed) for c in completions]


def _only_between(text: str, opening: str, closing: str) -> str | None:
    """The stripped text between two tags that each occur exactly once, in this order, else None."""
    if text.count(opening) != 1 or text.count(closing) != 1:
        return None
    start, end = text.find(opening) + len(opening), text.find(closing)
    return text[start:end].strip() if start <= end else None


def _visible(text: str) -> bool:
    # Zero-width and control characters survive strip(), and must not pass for content.
    return any(c.isprintable() and not c.isspace() for c in text)
