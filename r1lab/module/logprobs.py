"""Logprobs of completions under a model: the body on whole rows, the head on the counted tokens alone."""

from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from r1lab.loss.logprob import linear_logprob
from r1lab.rollout.collate import Batch


def completion_logprobs(
    model: PreTrainedModel, batch: Batch, *, temperature: float, entropy: Literal["none", "value", "gradient"] = "none"
) -> tuple[Tensor, Tensor | None]:
    """Logprob of each completion token, and the entropy of its distribution where asked (see `linear_logprob`).

    Returns:
        Both float32 [B,T], zero where `batch.completion_mask` is False.

    Raises:
        ValueError: for a model whose head does more than a matrix product (a soft cap or a bias on its logits).
    """
    head = model.get_output_embeddings()
    if getattr(head, "bias", None) is not None or getattr(model.config, "final_logit_softcapping", None):
        raise ValueError(f"{type(model).__name__} has a bias or a soft cap on its logits, which is not supported yet")
    # The mask is all ones: padding is on the right, so a causal model's counted positions never see it.
    hidden = model.base_model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
    mask = batch.completion_mask
    rows = torch.arange(len(mask), device=mask.device)[:, None].expand_as(mask)
    counted = hidden[rows[mask], batch.positions[mask]]
    logprob, entropies = linear_logprob(
        counted, head.weight, batch.completion_ids[mask], temperature=temperature, entropy=entropy
    )
    return _scatter(mask, logprob), None if entropies is None else _scatter(mask, entropies)


def _scatter(mask: Tensor, values: Tensor) -> Tensor:
    return torch.zeros(mask.shape, dtype=values.dtype, device=mask.device).masked_scatter(mask, values)
