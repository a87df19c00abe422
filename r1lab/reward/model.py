"""The reward of a learned model.

DeepSeek-R1 (arXiv 2501.12948v2): the helpful reward model sees the final summary alone, so that it does not
judge the reasoning; the safe one sees the whole response. Each general prompt belongs to one of the two.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Protocol

import torch
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from r1lab.dtype import dtype_of
from r1lab.model.capacity import check_token_ids
from r1lab.model.folder import read_model, read_tokenizer
from r1lab.model.quantize import check_precision
from r1lab.model.quantize import quantize as quantized
from r1lab.model.tokenizer import encode_whole
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

    A text has the score that transformers gives to it alone. Decoders are scored at their last token that is not the
    config's padding, so padding must not be mistaken for text, nor text for padding: rows are padded with an id that
    none of them holds, and the config names that id during the pass. Encoder-decoders such as BART take only rows
    with the same number of EOS tokens together.

    Args:
        model, tokenizer: `num_labels` 1; the text follows its prompt.
        batch_size: texts a forward pass. max_length: tokens of prompt and text together, or fewer if the model has
            fewer positions; what is over is cut off the left end of the text, special tokens aside.

    Raises:
        ValueError: for another number of outputs.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int, max_length: int):
        if model.config.num_labels != 1:
            raise ValueError(f"a reward model has one output, this one has {model.config.num_labels}")
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        self.batch_size = batch_size
        self.max_length = min(max_length, tokenizer.model_max_length)
        self.tokenizer.truncation_side = "left"
        self.config_pad = model.config.get_text_config().pad_token_id

    def score(self, prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
        """B prompts and B texts -> B scores."""
        return self.score_rows([self._row(prompt + text) for prompt, text in zip(prompts, texts, strict=True)])

    def score_rows(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """The scores of B rows of ids."""
        rows = [self._without_end(row) for row in rows]
        scores = [0.0] * len(rows)
        for places in self._batches(rows):
            for place, score in zip(places, self._scores([rows[place] for place in places]), strict=True):
                scores[place] = score
        return scores

    def _batches(self, rows: list[list[int]]) -> Iterator[list[int]]:
        """Places of the rows that are scored together."""
        alike: dict[int, list[int]] = {}
        for place, row in enumerate(rows):
            ends = row.count(self.model.config.eos_token_id) if self.model.config.is_encoder_decoder else 0
            alike.setdefault(ends, []).append(place)
        for places in alike.values():
            yield from (places[start : start + self.batch_size] for start in range(0, len(places), self.batch_size))

    def _scores(self, rows: list[list[int]]) -> list[float]:
        pad = self._unused_id(rows)
        if pad is None and len(rows) > 1:
            return [score for row in rows for score in self._scores([row])]
        return self._scores_padded(rows, pad)

    @torch.no_grad()
    def _scores_padded(self, rows: list[list[int]], pad: int | None) -> list[float]:
        """The scores of rows, padded with an id that the config names as its padding meanwhile."""
        width, device = max(map(len, rows)), self.model.device
        # Left out are `token_type_ids`, which decoders do not take.
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
        with _padding_id(self.model.config, pad):
            return self.model(input_ids=ids, attention_mask=mask).logits[:, 0].tolist()

    def _row(self, text: str) -> list[int]:
        row = encode_whole(self.tokenizer, text)
        if len(row) > self.max_length:  # cut on the left, behind the special tokens that begin it
            row = self.tokenizer(text, truncation=True, max_length=self.max_length)["input_ids"]
        if not row:
            first = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
            row = [next((token for token in first if token is not None), None)]
            if row == [None]:
                raise ValueError(
                    "the reward model cannot score an empty text: its tokenizer has no BOS and no EOS token"
                )
        return row

    def _without_end(self, row: Sequence[int]) -> list[int]:
        """A row up to its last token that is not the config's padding, where transformers scores a decoder."""
        end = len(row)
        while end > 1 and row[end - 1] == self.config_pad:
            end -= 1
        return list(row[:end] if end < len(row) and self._ignores_padding_at_the_end else row)

    @cached_property
    def _ignores_padding_at_the_end(self) -> bool:
        """Whether a text is scored before the config's padding at its end, as decoders are, measured on a few texts."""
        if self.model.config.is_encoder_decoder:
            return False
        ordinary = _ordinary_ids(self.model, self.tokenizer)
        starts = [ordinary[length : 2 * length] for length in (1, 2, 3) if 2 * length <= len(ordinary)]
        before = self._scores_each(starts)
        ended = [[*start, self.config_pad] for start in starts]
        at_end = self._scores_each(ended)
        scores = [self._scores_padded([row], self.config_pad)[0] for row in ended]
        return _distance(scores, before) < _distance(scores, at_end)

    def _scores_each(self, rows: list[list[int]]) -> list[float]:
        return [self._scores([row])[0] for row in rows]

    def _unused_id(self, rows: Sequence[Sequence[int]]) -> int | None:
        """An id to pad with: the tokenizer's or the config's own if no row holds it, else any ordinary one."""
        # Some models look for the end of the text by its id, others for places of images.
        ends = {*_ids(self.tokenizer.eos_token_id), *_ids(self.model.config.get_text_config().eos_token_id)}
        used = ends.union(*rows)
        size, special = self.model.get_input_embeddings().weight.shape[0], set(self.tokenizer.all_special_ids)
        own = [pad for pad in (self.tokenizer.pad_token_id, self.config_pad) if pad is not None and 0 <= pad < size]
        ordinary = (i for i in range(size) if i not in special)
        return next((pad for pad in (*own, *ordinary) if pad not in used), None)


def _distance(scores: Sequence[float], others: Sequence[float]) -> float:
    return sum(abs(x - y) for x, y in zip(scores, others, strict=True))


def _ordinary_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the embedding without a role in the tokenizer or the config."""
    config = model.config.get_text_config()
    special = {*tokenizer.all_special_ids, *_ids(config.eos_token_id), *_ids(config.pad_token_id)}
    return [i for i in range(model.get_input_embeddings().weight.shape[0]) if i not in special]


def _ids(ids: int | Sequence[int] | None) -> Sequence[int]:
    return () if ids is None else [ids] if isinstance(ids, int) else ids


@contextmanager
def _padding_id(config: PreTrainedConfig, pad: int | None) -> Iterator[None]:
    """A model's config names `pad` as its padding inside."""
    configs = [config, config.get_text_config()]
    before = [each.pad_token_id for each in configs]
    try:
        for each in configs:
            each.pad_token_id = pad
        yield
    finally:
        for each, own in zip(configs, before, strict=True):
            each.pad_token_id = own


def load_classifier(
    name: str, dtype: str, batch_size: int, max_length: int, quantize: str | None
) -> SequenceClassifier:
    """A reward model from a folder or the hub, on the GPU where there is one; its trunk in 8bit or nf4 if asked.

    Raises:
        ValueError: for another dtype or precision, or a model whose scores depend on padding.
        ImportError: for a precision without bitsandbytes.
    """
    kind = dtype_of(dtype, "scorer.dtype")
    check_precision(quantize, "scorer.quantize")
    setting = f"scorer.name={name}"
    model, tokenizer = (
        read_model(AutoModelForSequenceClassification, name, setting, dtype=kind),
        read_tokenizer(name, setting),
    )
    check_token_ids(model, tokenizer, setting)
    model = quantized(model, quantize).to("cuda" if torch.cuda.is_available() else "cpu")
    scorer = SequenceClassifier(model, tokenizer, batch_size, max_length)
    _check_text(scorer, setting)
    if batch_size > 1:
        check_padding(scorer.score_rows, model, scorer.tokenizer)
    return scorer


def _check_text(scorer: SequenceClassifier, setting: str) -> None:
    """Raise ValueError where the model fails on a text as the tokenizer makes it, between its special tokens."""
    config, tokenizer = scorer.model.config.get_text_config(), scorer.tokenizer
    frame = encode_whole(tokenizer, "")
    try:
        scorer.score_rows([[*frame[:-1], *_ordinary_ids(scorer.model, tokenizer)[:3], *frame[-1:]]])
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        remedy = "give another reward model"
        if config.pad_token_id is None:
            pad = tokenizer.pad_token_id
            remedy = f"set pad_token_id in its config.json{'' if pad is None else f', to {pad} as in its tokenizer'}"
        elif scorer.model.config.is_encoder_decoder and config.eos_token_id not in frame:
            remedy = f"give a tokenizer that ends each text with the model's EOS token, id {config.eos_token_id}"
        reason = " ".join(str(error).split())[:100]
        raise ValueError(
            f"{setting}: {type(scorer.model).__name__} cannot score a text, with pad_token_id={config.pad_token_id} "
            f"and eos_token_id={config.eos_token_id} in its config.json ({reason}): {remedy}"
        ) from error


def check_padding(
    score_rows: Callable[[list[list[int]]], list[float]], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raise ValueError where a model scores rows of ids otherwise side by side than alone."""
    config = model.config.get_text_config()
    ordinary = _ordinary_ids(model, tokenizer)
    end = list(_ids(config.eos_token_id))[:1]
    rows = [ordinary[length : 2 * length] + end for length in (1, 2, 5, 12, 30) if 2 * length <= len(ordinary)]
    together, alone = score_rows(rows), [score_rows([row])[0] for row in rows]
    # Kernels of other shapes round otherwise.
    scale = max(map(abs, alone), default=0.0)
    bound = max(1e-4 * scale, max(1e-5, 8 * torch.finfo(model.dtype).eps) * max(1.0, scale))
    apart = max((abs(x - y) for x, y in zip(together, alone, strict=True)), default=0.0)
    if not apart <= bound:
        raise ValueError(
            f"scorer.name: {type(model).__name__} scores a text otherwise beside longer ones, where it is padded, than "
            f"alone: {apart:.3g} apart, above {bound:.1g}; set scorer.batch_size=1"
        )
