"""The format reward, and the one definition of where a completion's reasoning and answer are.

DeepSeek-R1 (arXiv 2501.12948, section 2.1) rewards reasoning inside `<think>` and `</think>`; its template asks for
`<think> reasoning </think> <answer> answer </answer>`. Tags are these exact characters: other case, inner spaces and
look-alikes from other alphabets are ordinary text.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from r1lab.types import Completion, Prompt

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
TAGS = (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)

# Letters and signs, by their category, of which nothing is seen.
_BLANKS = frozenset("\u115f\u1160\u2800\u3164\uffa0\U0001d159")
_WELLFORMED = re.compile(r"\s*<think>(.*)</think>\s*<answer>(.*)</answer>\s*", re.DOTALL)


@dataclass(frozen=True)
class Parts:
    """What a completion consists of, white space around each part removed.

    reasoning: between the only `<think>` and the only `</think>` after it, else None.
    answer: between the only `<answer>` and the only `</answer>` after it, else None. An answer within the reasoning is
        none: one with a think tag inside or behind it, or before which the last `<think>` is not closed. Text without
        a think tag is no reasoning. What else stands before or behind the answer is for `wellformed` alone to judge.
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
    if answer is not None and _within_reasoning(text, text.find(ANSWER_OPEN)):
        answer = None
    wellformed = (
        reasoning is not None
        and answer is not None
        and _visible(reasoning)
        and _visible(answer)
        and _WELLFORMED.fullmatch(text) is not None
    )
    return Parts(reasoning, answer, wellformed)


def parts_of(prompt: Prompt, completion: Completion) -> Parts:
    """The parts of a completion; where its prompt opens the reasoning, it must not do so again."""
    return split_completion(completion.text, opened=opens_reasoning(prompt))


def opens_reasoning(prompt: Prompt) -> bool:
    """Whether the prompt itself ends with `<think>`, so that the completion starts inside the reasoning."""
    return prompt.text.rstrip().endswith(THINK_OPEN)


class Format:
    """1.0 for a completion that is exactly `<think>...</think> <answer>...</answer>` and was not truncated, else 0.0.

    Each tag once and in this order, both contents visible, only white space outside; see `parts_of` for prompts that
    open the reasoning themselves.

    graded: a completion that is not quite that gets half of the share of the tags which it has exactly once, behind
    those before them; a pair with nothing visible inside counts for none. A base that hardly ever writes the whole form
    has nothing to learn from without.
    """

    def __init__(self, graded: bool = False):
        self.graded = graded

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[float]:
        """B prompts and their B completions -> B rewards."""
        return [self._score(prompt, c) for prompt, c in zip(prompts, completions, strict=True)]

    def _score(self, prompt: Prompt, completion: Completion) -> float:
        if not completion.truncated and parts_of(prompt, completion).wellformed:
            return 1.0
        if not self.graded:
            return 0.0
        opened = opens_reasoning(prompt)
        asked = TAGS[1:] if opened else TAGS
        text = THINK_OPEN * opened + completion.text
        contents = {pair: _only_between(text, *pair) for pair in (TAGS[:2], TAGS[2:])}
        empty = {
            tag for pair, content in contents.items() if content is not None and not _visible(content) for tag in pair
        }
        found, behind = 0, 0
        for tag in asked:
            place = completion.text.find(tag)
            if completion.text.count(tag) == 1 and place >= behind and tag not in empty:
                found, behind = found + 1, place
        return 0.5 * found / len(asked)


def _only_between(text: str, opening: str, closing: str) -> str | None:
    """The stripped text between two tags that each occur exactly once, in this order, else None."""
    if text.count(opening) != 1 or text.count(closing) != 1:
        return None
    start, end = text.find(opening) + len(opening), text.find(closing)
    return text[start:end].strip() if start <= end else None


def _within_reasoning(text: str, place: int) -> bool:
    opened, closed = text.rfind(THINK_OPEN), text.rfind(THINK_CLOSE)
    return max(opened, closed) > place or opened > closed


def _visible(text: str) -> bool:
    # Zero-width and control characters, and marks alone, survive strip(), and must not pass for content.
    return any(unicodedata.category(c)[0] in "LNPS" and c not in _BLANKS for c in text)
