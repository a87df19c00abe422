"""Logprobs of completions under a model: the body on whole rows, the head on the counted tokens alone."""

from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from r1lab.module.head import AUTO, LinearHead
from r1lab.rollout.collate import Batch


def counted_hidden(body: nn.Module, batch: Batch) -> Tensor:
    """Hidden states [N,H] that predict the counted tokens, row by row: each has seen all before its token, not it."""
    # No attention mask: padding is on the right, so a causal model's counted positions never see it.
    hidden = body(input_ids=batch.input_ids, use_cache=False).last_hidden_state
    mask = batch.completion_mask
    rows = torch.arange(len(mask), device=mask.device)[:, None].expand_as(mask)
    return hidden[rows[mask], batch.positions[mask]]


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


def scatter(mask: Tensor, values: Tensor) -> Tensor:
    """Counted values [N] -> [B,T], zero where `mask` is False."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=mask.device).masked_scatter(mask, values)
