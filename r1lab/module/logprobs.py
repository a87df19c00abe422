"""Logprobs of completions under a model: the body on whole rows, the head on the counted tokens alone."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from r1lab.model.attention import packed_arguments
from r1lab.model.row_check import check_rows
from r1lab.module.head import AUTO, LinearHead
from r1lab.rollout.collate import Batch, collate, microbatches
from r1lab.types import Completion, Prompt


def counted_hidden(body: nn.Module, batch: Batch) -> Tensor:
    """Hidden states [N,H] that predict the counted tokens, row by row: each has seen all before its token, not it."""
    return counted(hidden_states(body, batch), batch)


def hidden_states(body: nn.Module, batch: Batch) -> Tensor:
    """The last hidden states of all tokens, [B,S+T,H]; packed [1,N,H].

    Raises:
        ValueError: for an architecture in which a row depends on its padding, or on what is packed beside it.
    """
    # No attention mask: padding is on the right, so a causal model's counted positions never see it. Packed rows are
    # told apart by their position ids.
    check_rows(body, batch.position_ids is not None)
    packed = packed_arguments(body.config, batch.position_ids)
    return body(input_ids=batch.input_ids, use_cache=False, **packed).last_hidden_state


def counted(hidden: Tensor, batch: Batch, ahead: int = 1) -> Tensor:
    """Of hidden states [B,S+T,H] those that lie `ahead` tokens before the counted ones, [N,H]."""
    mask = batch.completion_mask
    # Packed, all lie in the first.
    rows = torch.arange(len(mask), device=mask.device).clamp(max=len(hidden) - 1)[:, None].expand_as(mask)
    return hidden[rows[mask], batch.positions[mask] + 1 - ahead]


def completion_logprobs(
    model: PreTrainedModel,
    batch: Batch,
    *,
    temperature: float,
    entropy: Literal["none", "value", "gradient"] = "none",
    hidden: Tensor | None = None,
    head: LinearHead = AUTO,
) -> tuple[Tensor, Tensor | None]:
    """Logprob of each completion token, and the entropy of its distribution where asked (see `linear_logprob`).

    Args:
        hidden: what `counted_hidden` gives for the model's body, where it is at hand.
        head: how the model's head is applied.

    Returns:
        Both float32 [B,T], zero where `batch.completion_mask` is False.
    """
    mask = batch.completion_mask
    hidden = counted_hidden(model.base_model, batch) if hidden is None else hidden
    ids = batch.completion_ids[mask]
    logprob, entropies = head.logprob(model, hidden, ids, temperature=temperature, entropy=entropy)
    return scatter(mask, logprob), None if entropies is None else scatter(mask, entropies)


@torch.no_grad()
def top_k_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    *,
    k: int,
    temperature: float,
    microbatch_tokens: int = 8000,
    head: LinearHead = AUTO,
) -> list[tuple[Tensor, Tensor]]:
    """Of each completion the k likeliest tokens at its places and their logprobs: int64 and float32 [T,k], on the CPU.

    Raises ValueError for a k above the vocabulary's size.
    """
    rows = [(prompt.ids, completion.ids) for prompt, completion in zip(prompts, completions, strict=True)]
    out: list[tuple[Tensor, Tensor]] = [()] * len(rows)
    for part in microbatches([len(prompt) + len(ids) for prompt, ids in rows], microbatch_tokens):
        batch = collate(*zip(*(rows[i] for i in part), strict=True), tokenizer.pad_token_id).to(model.device)
        found = head.top_k(model, counted_hidden(model.base_model, batch), k=k, temperature=temperature)
        lengths = [len(rows[i][1]) for i in part]
        for i, ids, logprobs in zip(part, *(x.cpu().split(lengths) for x in found), strict=True):
            out[i] = ids, logprobs
    return out


def scatter(mask: Tensor, values: Tensor) -> Tensor:
    """Counted values [N] -> [B,T], zero where `mask` is False."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=mask.device).masked_scatter(mask, values)
