"""The reward of a learned model.

DeepSeek-R1 (arXiv 2501.12948v2): the helpful reward model sees the final summary alone, so that it does not
judge the reasoning; the safe one sees the whole response. Each general prompt belongs to one of the two.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from r1lab.dtype import dtype_of
from r1lab.model.quantize import check_precision
from r1lab.model.quantize import quantize as quantized
from r1lab.reward.format import parts_of
from r1lab.types import Completion, Prompt

PARTS = ("answer", "response")


class Scorer(Protocol):
    """A reward model."""

    def score(self, prompts: Sequence[str], texts: Sequence[str]) -> Sequence[float]:
        """B prompts' texts and the B texts that answer them -> B scores, larger is better."""
        ...


class LearnedReward:
    """A scorer's word on each completion.

    Args:
        scorer: the reward model.
        sees: `answer`, the text inside <answer>, or `response`, all that the policy wrote. An answer that is missing
            is scored as an empty text: to leave it out must not be worth more than a bad one.
        kinds: of prompts that it is for (`Prompt.kind`); to others it does not apply. None: for all.
    """

    def __init__(self, scorer: Scorer, sees: str, kinds: Sequence[str] | None = None):
        if sees not in PARTS:
            raise ValueError(f"sees={sees!r} of a learned reward must be one of {', '.join(PARTS)}")
        self.scorer, self.sees, self.kinds = scorer, sees, kinds

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[float | None]:
        """B prompts and their B completions -> B scores."""
        rewards: list[float | None] = [None] * len(prompts)
        rows = [b for b, prompt in enumerate(prompts) if self.kinds is None or prompt.kind in self.kinds]
        if rows:
            texts = [seen_part(prompts[b], completions[b], self.sees) for b in rows]
            scores = self.scorer.score([prompts[b].text for b in rows], texts)
            for b, score in zip(rows, scores, strict=True):
                rewards[b] = float(score)
        return rewards


def seen_part(prompt: Prompt, completion: Completion, sees: str) -> str:
    """The text of a completion that a reward model sees, in training as in use; `sees` as for `LearnedReward`."""
    if sees == "response":
        return completion.text
    return "" if completion.truncated else parts_of(prompt, completion).answer or ""


class SequenceClassifier:
    """A sequence-classification model with one output as a scorer.

    Args:
        model, tokenizer: `num_labels` 1; the text follows its prompt.
        batch_size: texts a forward pass. max_length: tokens of prompt and text together; what is over is cut off the
            left end, where the prompt stands.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int, max_length: int):
        if model.config.num_labels != 1:
            raise ValueError(f"a reward model has one output, this one has {model.config.num_labels}")
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        self.batch_size, self.max_length = batch_size, max_length

    @torch.no_grad()
    def score(self, prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
        """B prompts and B texts -> B scores."""
        scores: list[float] = []
        for start in range(0, len(texts), self.batch_size):
            rows = range(start, min(start + self.batch_size, len(texts)))
            scores += self.model(**self._inputs([prompts[b] + texts[b] for b in rows])).logits[:, 0].tolist()
        return scores

    def _inputs(self, texts: list[str]) -> dict[str, torch.Tensor]:
        """Left out are `token_type_ids`, which decoders do not take."""
        rows = [self.tokenizer.encode(text)[-self.max_length :] for text in texts]
        width = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        return {
            "input_ids": torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=self.model.device),
            "attention_mask": torch.tensor(
                [[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self.model.device
            ),
        }


def load_classifier(
    name: str, dtype: str, batch_size: int, max_length: int, quantize: str | None
) -> SequenceClassifier:
    """A reward model from a folder or the hub, on the GPU where there is one; its trunk in 8bit or nf4 if asked.

    Raises ValueError for another dtype or precision, ImportError for a precision without bitsandbytes.
    """
    kind = dtype_of(dtype, "scorer.dtype")
    check_precision(quantize, "scorer.quantize")
    model = AutoModelForSequenceClassification.from_pretrained(name, dtype=kind)
    model = quantized(model, quantize).to("cuda" if torch.cuda.is_available() else "cpu")
    return SequenceClassifier(model, AutoTokenizer.from_pretrained(name), batch_size, max_length)
